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
