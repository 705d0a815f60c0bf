package contract

import (
	"io"
	"net/http"
	"strings"

	"k8s.io/client-go/rest"
)

// restResult is an answer as it came.
type restResult struct {
	code     int
	body     string
	header   http.Header
	warnings []string
}

// path answers the path of a resource in the story's namespace.
func (s *teller) path(group, resource string) string {
	return group + "/namespaces/" + s.namespace + "/" + resource
}

// raw sends a request as it is; headers are pairs of name and value.
func (s *teller) raw(method, path, body string, headers ...string) *restResult {
	s.Helper()
	client, err := rest.HTTPClientFor(s.cfg)
	s.must(err)
	base, _, err := rest.DefaultServerUrlFor(s.cfg)
	s.must(err)
	req, err := http.NewRequestWithContext(s.ctx, method, strings.TrimSuffix(base.String(), "/")+path, strings.NewReader(body))
	s.must(err)
	req.Header.Set("Content-Type", "application/json")
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := client.Do(req)
	s.must(err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	s.must(err)
	return &restResult{code: resp.StatusCode, body: string(b), header: resp.Header, warnings: resp.Header.Values("Warning")}
}
