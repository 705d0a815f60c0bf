package proxy

import (
	"encoding/json"
	"net/http"
	"strconv"
)

// statusClientGone is what logs and metrics show for a request whose client
// left before the answer. It is never sent.
const statusClientGone = 499

// problemDocument is the body of an answer of the gateway's own (RFC 9457).
func problemDocument(status int, detail string) []byte {
	body, _ := json.Marshal(struct { // cannot fail: strings and an integer
		Title  string `json:"title"`
		Status int    `json:"status"`
		Detail string `json:"detail"`
	}{http.StatusText(status), status, detail})
	return body
}

// problem answers with a problem document (RFC 9457).
func problem(w http.ResponseWriter, status int, detail string) {
	body := problemDocument(status, detail)
	h := w.Header()
	h.Set("Content-Type", "application/problem+json")
	h.Set("Content-Length", strconv.Itoa(len(body)))
	h.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	w.Write(body)
}
