package contract

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/gantryhq/gantry/internal/testenv"
	"github.com/gantryhq/gantry/test/instance"
)

// exchange is a request, as a file in testdata/exchanges has it, and what is known
// of its answers.
type exchange struct {
	where   string // file and number, for messages
	about   string // its comment
	method  string
	path    string
	headers []string // pairs of name and value
	body    string
	differs string // why the answers differ on purpose, or ""
}

// compared is the namespace in which exchanges happen, on both servers.
const compared = "contract-compared"

// TestUpstreamAnswersTheSame sends the same requests to Gantry and to a real
// kube-apiserver and compares the answers, but for what no two servers have in
// common: identifiers, versions, times and addresses. A difference on purpose
// carries its reason, and one that has gone is an error too, so that the list of
// reasons stays true.
func TestUpstreamAnswersTheSame(t *testing.T) {
	programs := upstreamPrograms(t)
	testenv.NeedContainers(t)
	theirs := newTeller(t, startUpstream(t, programs))
	ours := newTeller(t, instance.Start(t, instance.Options{}).Config(t))
	for _, s := range []*teller{theirs, ours} {
		s.namespace = compared
		_, err := s.client.CoreV1().Namespaces().Create(s.ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: compared}}, metav1.CreateOptions{})
		s.must(err)
		s.Cleanup(func() {
			_ = s.client.CoreV1().Namespaces().Delete(context.Background(), compared, metav1.DeleteOptions{})
		})
		s.eventually("the namespace's service account", func() error {
			_, err := s.client.CoreV1().ServiceAccounts(compared).Get(s.ctx, "default", metav1.GetOptions{})
			return err
		})
	}
	t.Run("Discovery", func(t *testing.T) { compareDiscovery(t, theirs, ours) })
	t.Run("OpenAPI", func(t *testing.T) { compareOpenAPI(t, theirs, ours) })
	for _, e := range readExchanges(t) {
		t.Run(e.about, func(t *testing.T) { e.compare(t, theirs, ours) })
	}
}

func (e *exchange) compare(t *testing.T, theirs, ours *teller) {
	want, got := e.answer(theirs), e.answer(ours)
	same := want == got
	switch {
	case same && e.differs != "":
		t.Errorf("%s: the answers are the same now: take the reason away (%s)", e.where, e.differs)
	case !same && e.differs == "":
		t.Errorf("%s: %s %s\n%s", e.where, e.method, e.path, difference(want, got))
	}
}

// answer is the answer as text, one value a line, without what no two servers have in common.
func (e *exchange) answer(s *teller) string {
	r := s.raw(e.method, e.path, e.body, e.headers...)
	for deadline := time.Now().Add(patience); r.code == 409 && strings.Contains(r.body, "object has been modified") && !strings.Contains(e.body, "resourceVersion") && time.Now().Before(deadline); {
		r = s.raw(e.method, e.path, e.body, e.headers...) // a controller wrote at the same moment
	}
	var text strings.Builder
	fmt.Fprintf(&text, "code: %d\n", r.code)
	for _, warning := range r.warnings {
		fmt.Fprintf(&text, "warning: %s\n", warning)
	}
	fmt.Fprintf(&text, "type: %s\n", r.header.Get("Content-Type"))
	var v any
	if err := json.Unmarshal([]byte(r.body), &v); err != nil {
		text.WriteString(r.body)
		return text.String()
	}
	flatten(&text, "", v)
	return text.String()
}

// own are the fields whose values are each server's own.
var own = map[string]bool{
	"uid": true, "resourceVersion": true, "creationTimestamp": true, "deletionTimestamp": true, "time": true, "clusterIP": true, "clusterIPs": true,
	"nodePort": true, "continue": true, "expirationTimestamp": true, "token": true, "startTime": true, "lastTransitionTime": true,
	"nonResourceRules": true, "resourceRules": true,
}

// ownText is the same within texts: ages, identifiers, generated names, addresses and programs.
var ownText = regexp.MustCompile(`^\d+(ms|s|m)$|[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|\b10\.\d+\.\d+\.\d+\b|(made|kube-api-access)-[a-z0-9]{5}\b|\bresource version: \d+, current: \d+|\(\d+\)$|^(kube-apiserver|gantry\S*)$`)

// flatten writes a JSON value as lines of path and value.
func flatten(text *strings.Builder, path string, v any) {
	switch v := v.(type) {
	case map[string]any:
		for _, key := range slices.Sorted(maps.Keys(v)) {
			if own[key] {
				fmt.Fprintf(text, "%s.%s: its own\n", path, key)
				continue
			}
			flatten(text, path+"."+key, v[key])
		}
	case []any:
		for i, one := range v {
			flatten(text, fmt.Sprintf("%s[%d]", path, i), one)
		}
	case string:
		fmt.Fprintf(text, "%s: %q\n", path, ownText.ReplaceAllString(v, "its own"))
	default:
		fmt.Fprintf(text, "%s: %v\n", path, v)
	}
}

// difference lists the lines that only one of two answers has.
func difference(want, got string) string {
	theirs, ours := strings.Split(want, "\n"), strings.Split(got, "\n")
	var text strings.Builder
	for _, line := range theirs {
		if !slices.Contains(ours, line) {
			fmt.Fprintf(&text, "  Kubernetes: %.600s\n", line)
		}
	}
	for _, line := range ours {
		if !slices.Contains(theirs, line) {
			fmt.Fprintf(&text, "  Gantry:     %.600s\n", line)
		}
	}
	return text.String()
}

// readExchanges reads testdata/exchanges: blocks that are separated by lines of
// three dashes. A block is comment lines (#, or "# differs: " with a reason), a
// line of method and path, header lines, and after an empty line the body.
func readExchanges(t *testing.T) []*exchange {
	t.Helper()
	var all []*exchange
	files, err := filepath.Glob("testdata/exchanges/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("there are no exchanges: %v", err)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for i, block := range strings.Split(string(data), "\n---\n") {
			e := parseExchange(block)
			e.where = fmt.Sprintf("%s, exchange %d", file, i+1)
			if e.method == "" || e.about == "" {
				t.Fatalf("%s has no request or no comment", e.where)
			}
			all = append(all, e)
		}
	}
	return all
}

func parseExchange(block string) *exchange {
	e := &exchange{}
	head, body, _ := strings.Cut(strings.TrimLeft(block, "\n"), "\n\n")
	for lines := bufio.NewScanner(strings.NewReader(head)); lines.Scan(); {
		line := lines.Text()
		switch comment, isComment := strings.CutPrefix(line, "# "); {
		case isComment && strings.HasPrefix(comment, "differs: "):
			e.differs = strings.TrimPrefix(comment, "differs: ")
		case isComment:
			e.about = strings.TrimSpace(e.about + " " + comment)
		case e.method == "":
			e.method, e.path, _ = strings.Cut(line, " ")
			e.path = strings.ReplaceAll(e.path, "NS", "namespaces/"+compared)
		default:
			name, value, _ := strings.Cut(line, ": ")
			e.headers = append(e.headers, name, value)
		}
	}
	e.body = strings.TrimSpace(body)
	if e.body != "" && !strings.HasPrefix(e.body, "{") && !strings.HasPrefix(e.body, "[") && !slices.Contains(e.headers, "Content-Type") {
		e.headers = append(e.headers, "Content-Type", "application/yaml", "Accept", "application/json")
	}
	return e
}
