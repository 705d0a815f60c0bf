package eventloop

import (
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
