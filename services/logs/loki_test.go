package logs

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	authorizationv1 "k8s.io/api/authorization/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/kubernetes/fake"
	ktesting "k8s.io/client-go/testing"

	"github.com/gantryhq/gantry/services/logs/loki"
)

// served answers at Loki's API for a place; who asks is in the header User, and each user may see the
// namespace of their name, root all.
func served(t *testing.T, p *place) *httptest.Server {
	client := fake.NewClientset()
	client.PrependReactor("create", "subjectaccessreviews", func(a ktesting.Action) (bool, runtime.Object, error) {
		r := a.(ktesting.CreateAction).GetObject().(*authorizationv1.SubjectAccessReview)
		at := r.Spec.ResourceAttributes
		r.Status.Allowed = at.Resource == "pods" && at.Subresource == "log" && at.Verb == "get" && (r.Spec.User == "root" || at.Namespace == r.Spec.User)
		return true, r, nil
	})
	p.access = newAccess(client)
	p.cfg.User = func(r *http.Request) (user.Info, bool) { return &user.DefaultInfo{Name: r.Header.Get("User")}, true }
	s := httptest.NewServer(loki.New(loki.Config{Source: p.Service, Hub: &p.hub, Rights: p.rights, Queries: p.metrics.queries}))
	t.Cleanup(s.Close)
	return s
}

// get asks as somebody, and returns the status and the text of the answer.
func get(t *testing.T, s *httptest.Server, who, path string, params ...string) (int, string) {
	t.Helper()
	q := url.Values{}
	for i := 0; i < len(params); i += 2 {
		q.Add(params[i], params[i+1])
	}
	r, err := http.NewRequestWithContext(t.Context(), "GET", s.URL+"/loki/api/v1/"+path+"?"+q.Encode(), nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("User", who)
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer.StatusCode, strings.TrimSpace(string(text))
}

func TestLokiAPI(t *testing.T) {
	p := newPlace(t)
	s := served(t, p)
	p.write(web+"0.log", `{"level":"error","msg":"<b>no \u001b[2J stock</b>"}`, "plain \x1b[31m\xff line")
	p.write("bank_vault-0_uid-7/main/0.log", "secret")
	p.poll()
	for _, c := range []struct {
		who, path string
		params    []string
		code      int
		has, not  string
	}{
		{"root", "labels", nil, 200, `"app","app_kubernetes_io_part_of","container","namespace","node","pod","stream"`, ""},
		{"root", "label/namespace/values", nil, 200, `["bank","shop"]`, ""},
		{"shop", "label/namespace/values", nil, 200, `["shop"]`, "bank"},
		{"nobody", "label/namespace/values", nil, 200, `[]`, "shop"},
		{"shop", "label/stream/values", nil, 200, `["stderr","stdout"]`, ""},
		{"shop", "series", []string{"match[]", `{app="web"}`}, 200, `"pod":"web-1"`, "vault"},
		{"shop", "series", []string{"match[]", `{namespace="bank"}`}, 403, "get pods/log", "vault"},
		{"shop", "query_range", []string{"query", `{namespace=~".+"}`}, 200, `"plain \u001b[31m` + "\uFFFD" + ` line"`, "secret"},
		{"shop", "query_range", []string{"query", `{namespace="bank"}`}, 403, `namespace \"bank\"`, "secret"},
		{"bank", "query_range", []string{"query", `{namespace="bank"}`}, 200, "secret", "stock"},
		{"root", "query_range", []string{"query", `{namespace=~".+"} | json | level="error"`, "limit", "1", "direction", "forward"}, 200, `"level":"error"`, "secret"},
		{"shop", "query", []string{"query", `sum(count_over_time({namespace=~".+"}[1h]))`}, 200, `"vector","result":[{"metric":{},"value":[`, `"3"`},
		{"root", "query", []string{"query", `vector(1)+vector(1)`}, 200, `"2"`, ""},
		{"root", "query_range", []string{"query", `rate({app="web"}[1m])`, "step", "10", "since", "5m"}, 200, `"matrix"`, "error"},
		{"shop", "index/stats", []string{"query", `{namespace=~".+"}`}, 200, `"streams":1`, ""},
		{"shop", "index/volume", []string{"query", `{namespace=~".+"}`}, 200, `{"namespace":"shop"}`, "bank"},
		{"shop", "index/volume_range", []string{"query", `{app="web"}`}, 200, `"matrix"`, "bank"},
		{"root", "query_range", nil, 400, "query is missing", ""},
		{"root", "query_range", []string{"query", `{app="web"`}, 400, "no end", ""},
		{"root", "query_range", []string{"query", `{app="web"}`, "limit", "100000"}, 400, "1 to 5000", ""},
		{"root", "query_range", []string{"query", `{app="web"}`, "start", "soon"}, 400, "not a time", ""},
		{"root", "query_range", []string{"query", `{app="web"}`, "start", "20", "end", "10"}, 400, "before the start", ""},
		{"root", "query_range", []string{"query", `rate({app="web"}[1m])`, "step", "1ms", "since", "5m"}, 400, "longer step", ""},
		{"root", "query_range", []string{"query", `{app="web"}`, "direction", "up"}, 400, "neither", ""},
		{"root", "push", nil, 404, "not known here", ""},
		{"root", "tail", []string{"query", `rate({app="web"}[1m])`}, 400, "only lines", ""},
		{"shop", "tail", []string{"query", `{namespace="bank"}`}, 403, "get pods/log", ""},
	} {
		code, text := get(t, s, c.who, c.path, c.params...)
		if code != c.code || !strings.Contains(text, c.has) && !strings.Contains(text, strings.ReplaceAll(c.has, `\"`, `"`)) || c.not != "" && strings.Contains(text, c.not) {
			t.Errorf("%s %s %q: %d %s\nwant %d, with %q and without %q", c.who, c.path, c.params, code, text, c.code, c.has, c.not)
		}
	}
}

// The requests that Grafana's Loki data source and logcli send are answered, as
// https://grafana.com/docs/loki/latest/reference/loki-http-api/ describes them.
func TestCallsOfGrafanaAndLogcli(t *testing.T) {
	p := newPlace(t)
	s := served(t, p)
	p.write(web+"0.log", `level=error msg="no stock"`, `level=info msg=ok`)
	p.poll()
	end := time.Now().Add(time.Hour).UnixNano()
	start := fmt.Sprint(end - int64(3*time.Hour))
	span := func(params ...string) []string { return append(params, "start", start, "end", fmt.Sprint(end)) }
	for _, c := range []struct {
		what, path string
		params     []string
		has        string
	}{
		{"Grafana looks whether anybody answers", "query", []string{"query", "vector(1)+vector(1)", "time", fmt.Sprint(end), "limit", "1"}, `"2"`},
		{"Grafana asks for the version", "status/buildinfo", nil, `"version"`},
		{"Grafana lists labels", "labels", span(), `"app"`},
		{"Grafana lists labels of a selection", "labels", span("query", `{app="web"}`), `"pod"`},
		{"Grafana lists values", "label/app/values", span("query", `{namespace="shop"}`), `["web"]`},
		{"Grafana lists series", "series", span("match[]", `{app="web"}`), `"pod":"web-1"`},
		{"Grafana shows how much a query reads", "index/stats", span("query", `{app="web"}`), `"streams":1`},
		{"Grafana shows lines", "query_range", span("query", `{app="web"}`, "direction", "backward", "limit", "1000", "step", "15000ms"), `no stock`},
		{"Grafana draws how many lines there are", "query_range", span("query", `sum by (level, detected_level) (count_over_time({app="web"} | drop __error__[1m]))`, "step", "60"), `{"detected_level":"error"}`},
		{"Grafana shows the lines before one", "query_range", span("query", `{app="web"} | json | drop __error__`, "direction", "BACKWARD", "limit", "100"), `no stock`},
		{"logcli query", "query_range", span("query", `{app="web"}`, "direction", "BACKWARD", "limit", "30"), `no stock`},
		{"logcli query --forward", "query_range", span("query", `{app="web"} | logfmt`, "direction", "FORWARD", "limit", "30"), `"level":"error"`},
		{"logcli instant-query", "query", []string{"query", `sum(count_over_time({app="web"}[3h]))`, "time", fmt.Sprint(end), "limit", "30", "direction", "BACKWARD"}, `"vector"`},
		{"logcli labels", "labels", span(), `"namespace"`},
		{"logcli labels app", "label/app/values", span(), `"web"`},
		{"logcli series", "series", span("match", `{app="web"}`), `"web-1"`},
		{"logcli series of nothing", "series", span("match", `{app="none"}`), `"data":[]`},
		{"logcli stats", "index/stats", span("query", `{app="web"}`), `"entries":`},
		{"logcli volume", "index/volume", span("query", `{app="web"}`, "limit", "30", "aggregateBy", "series"), `{"app":"web"}`},
		{"logcli volume_range", "index/volume_range", span("query", `{app="web"}`, "limit", "30", "step", "60"), `"matrix"`},
	} {
		code, text := get(t, s, "root", c.path, c.params...)
		if code != http.StatusOK || !strings.Contains(text, c.has) {
			t.Errorf("%s (%s %q): %d %s\nwant %q", c.what, c.path, c.params, code, text, c.has)
		}
	}
}

func TestTailShowsWhatWasAndWhatComes(t *testing.T) {
	p := newPlace(t)
	s := served(t, p)
	p.write(web+"0.log", "one", "two", "no")
	p.write("bank_vault-0_uid-7/main/0.log", "secret")
	p.poll()
	at := "ws" + strings.TrimPrefix(s.URL, "http") + "/loki/api/v1/tail?limit=2&query=" + url.QueryEscape(`{namespace=~".+"} != "no"`)
	conn, _, err := websocket.DefaultDialer.DialContext(t.Context(), at, http.Header{"User": {"shop"}})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	next := func() (texts []string) {
		t.Helper()
		var m struct {
			Streams []struct {
				Values [][2]string `json:"values"`
			} `json:"streams"`
		}
		if err := conn.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
			t.Fatal(err)
		}
		_, text, err := conn.ReadMessage()
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(text, &m); err != nil {
			t.Fatal(err)
		}
		for _, s := range m.Streams {
			for _, v := range s.Values {
				texts = append(texts, v[1])
			}
		}
		return texts
	}
	if got := fmt.Sprint(next()); got != "[one two]" {
		t.Errorf("first there is %s", got)
	}
	p.write(web+"0.log", "three", "no")
	p.write("bank_vault-0_uid-7/main/0.log", "secret too")
	p.poll()
	if got := fmt.Sprint(next()); got != "[three]" {
		t.Errorf("then comes %s", got)
	}
	// The pod goes while it is followed.
	p.write(web+"0.log", "four")
	p.collect.drain(filepath.Join(p.pods, "shop_web-1_uid-1"))
	if err := os.RemoveAll(filepath.Join(p.pods, "shop_web-1_uid-1")); err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(next()); got != "[four]" {
		t.Errorf("at last comes %s", got)
	}
}
