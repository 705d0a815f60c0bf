package samples

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/rest"

	"github.com/gantryhq/gantry/internal/hint"
)

// What the server says becomes values, or an error that says what to do.
func TestReader(t *testing.T) {
	status, body := http.StatusOK, ""
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasPrefix(r.URL.Path, "/prometheus/api/v1/query") {
			t.Errorf("%s was asked for", r.URL)
		}
		w.WriteHeader(status)
		fmt.Fprint(w, body)
	}))
	defer server.Close()
	r, err := New(&rest.Config{Host: server.URL})
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	body = `{"status":"success","data":{"resultType":"vector","result":[{"metric":{"a":"b"},"value":[1,"2"]}]}}`
	if v, err := r.Vector(t.Context(), "x", now); err != nil || len(v) != 1 || v[0].Value != 2 || v[0].Metric["a"] != "b" {
		t.Error(v, err)
	}
	if _, err := r.Matrix(t.Context(), "x", now, now, time.Second); err == nil || !strings.Contains(err.Error(), "it answers with a vector") {
		t.Error(err)
	}
	for _, c := range []struct {
		status          int
		body, say, next string
	}{
		{http.StatusNotFound, "404 page not found", "nothing answers", "--no-metrics"},
		{http.StatusForbidden, `{"kind":"Status"}`, "may not ask", "gantry-metrics-reader"},
		{http.StatusServiceUnavailable, "starting", "is starting", "in a moment"},
		{http.StatusBadRequest, `{"status":"error","errorType":"bad_data","error":"unclosed left parenthesis"}`, "unclosed left parenthesis", ""},
	} {
		status, body = c.status, c.body
		_, err := r.Vector(t.Context(), "x", now)
		if err == nil || !strings.Contains(err.Error(), c.say) || !strings.Contains(hint.Of(err), c.next) {
			t.Errorf("%d: %v, hint %q", c.status, err, hint.Of(err))
		}
	}
}
