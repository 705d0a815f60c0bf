package dockerapi

import "net/http"

// buildSessions joins the two connections of a BuildKit client.
type buildSessions struct{}

func (s *Server) serveSession(w http.ResponseWriter, r *http.Request) error {
	return unavailable("not yet")
}
func (s *Server) serveGRPC(w http.ResponseWriter, r *http.Request) error {
	return unavailable("not yet")
}
