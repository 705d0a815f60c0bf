package eventloop

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
)

// Problem is the body of an answer of the gateway's own (RFC 9457).
func Problem(status int, detail string) []byte {
	body, _ := json.Marshal(struct { // cannot fail: strings and an integer
		Title  string `json:"title"`
		Status int    `json:"status"`
		Detail string `json:"detail"`
	}{http.StatusText(status), status, detail})
	return body
}

// Close is the field that ends a connection.
const Close = "Connection: close\r\n"

// AppendProblem appends a whole response with a problem as its body. fields are more
// lines for its head, each with its CRLF.
func AppendProblem(dst []byte, status int, detail, fields string) []byte {
	body := Problem(status, detail)
	return fmt.Appendf(dst, "HTTP/1.1 %d %s\r\n%sContent-Type: application/problem+json\r\nContent-Length: %d\r\nX-Content-Type-Options: nosniff\r\n\r\n%s",
		status, http.StatusText(status), fields, len(body), body)
}

// refusal is the answer to what cannot be understood.
type refusal struct {
	status int
	detail string
}

var (
	badRequest     = refusal{http.StatusBadRequest, "the request is malformed"}
	targetTooLong  = refusal{http.StatusRequestURITooLong, "the target of the request is too long"}
	headTooLarge   = refusal{http.StatusRequestHeaderFieldsTooLarge, "the head of the request is too large"}
	requestTimeout = refusal{http.StatusRequestTimeout, "the request did not arrive in time"}
)

// tooLarge says which part of a head that is too large is to blame: the line of
// the request (RFC 9112, section 3) or its fields (RFC 6585, section 5).
func tooLarge(head []byte) refusal {
	if bytes.IndexByte(head, '\n') < 0 {
		return targetTooLong
	}
	return headTooLarge
}

// statusOf reads the status from a response of our own.
func statusOf(response []byte) int {
	const at = len("HTTP/1.1 ")
	if len(response) < at+3 {
		return 0
	}
	d := response[at:]
	return int(d[0]-'0')*100 + int(d[1]-'0')*10 + int(d[2]-'0')
}
