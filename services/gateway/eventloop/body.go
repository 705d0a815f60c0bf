package eventloop

import (
	"fmt"
	"net/http"

	"github.com/gantryhq/gantry/services/gateway/http1"
)

// body follows a message's body to its end.
type body struct {
	done     bool
	chunked  bool
	untilEnd bool // of the connection
	left     int64
	chunks   http1.Chunks
}

func requestBody(h *http1.Head) body {
	if h.Chunked {
		return body{chunked: true}
	}
	return body{left: max(h.ContentLength, 0), done: h.ContentLength <= 0}
}

// responseBody is RFC 9112, section 6.3.
func responseBody(h *http1.Head, isHead bool) body {
	switch {
	case isHead, h.Status == http.StatusNoContent, h.Status == http.StatusNotModified:
		return body{done: true}
	case h.Chunked:
		return body{chunked: true}
	case h.ContentLength >= 0:
		return body{left: h.ContentLength, done: h.ContentLength == 0}
	}
	return body{untilEnd: true}
}

// scan takes note of the next bytes and returns how many of them belong to it.
func (b *body) scan(p []byte) (int, error) {
	switch {
	case b.done:
		return 0, nil
	case b.untilEnd:
		return len(p), nil
	case b.chunked:
		used, done, err := b.chunks.Scan(p)
		b.done = done
		return used, err
	}
	n := min(int64(len(p)), b.left)
	b.left -= n
	b.done = b.left == 0
	return int(n), nil
}

// refusal is a ready answer to what cannot be understood.
type refusal struct {
	status int
	text   string
}

var (
	badRequest     = refuseWith(http.StatusBadRequest, "the request is malformed")
	headTooLarge   = refuseWith(http.StatusRequestHeaderFieldsTooLarge, "the head of the request is too large")
	requestTimeout = refuseWith(http.StatusRequestTimeout, "the request did not arrive in time")
)

// refuseWith makes a problem document (RFC 9457).
func refuseWith(status int, detail string) refusal {
	text := fmt.Sprintf(`{"title":%q,"status":%d,"detail":%q}`, http.StatusText(status), status, detail)
	return refusal{status, fmt.Sprintf("HTTP/1.1 %d %s\r\nContent-Type: application/problem+json\r\nContent-Length: %d\r\nX-Content-Type-Options: nosniff\r\nConnection: close\r\n\r\n%s",
		status, http.StatusText(status), len(text), text)}
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
