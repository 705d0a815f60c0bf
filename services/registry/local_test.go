package registry

import (
	"net/http"
	"net/http/httptest"
	"testing"
)

func TestWithoutALoginOnlyLoopbackNamesAreAnswered(t *testing.T) {
	r, err := New(Config{DataDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	for host, want := range map[string]int{
		"127.0.0.1:5000":   http.StatusOK,
		"localhost:5000":   http.StatusOK,
		"localhost":        http.StatusOK,
		"[::1]:5000":       http.StatusOK,
		"evil.example":     http.StatusMisdirectedRequest,
		"192.0.2.10:5000":  http.StatusMisdirectedRequest,
		"127.0.0.1.evil.x": http.StatusMisdirectedRequest,
		"":                 http.StatusMisdirectedRequest,
	} {
		req := httptest.NewRequest(http.MethodGet, "/v2/", nil)
		req.Host = host
		w := httptest.NewRecorder()
		r.ServeHTTP(w, req)
		if w.Code != want {
			t.Errorf("Host %q: status %d, want %d", host, w.Code, want)
		}
	}
}
