package proxy

import (
	"net/http"
	"strconv"

	"github.com/gantryhq/gantry/services/gateway/eventloop"
)

// statusClientGone is what logs and metrics show for a request whose client
// left before the answer. It is never sent.
const statusClientGone = 499

// problem answers with a problem document (RFC 9457).
func problem(w http.ResponseWriter, status int, detail string) {
	body := eventloop.Problem(status, detail)
	h := w.Header()
	h.Set("Content-Type", "application/problem+json")
	h.Set("Content-Length", strconv.Itoa(len(body)))
	h.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	w.Write(body)
}
