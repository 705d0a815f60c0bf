package audit

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/gantryhq/gantry/internal/rights"
)

// Prefix is where the service is under the API's address.
const Prefix = "/audit/"

// Reader is the ClusterRole that lets its holder read the audit logs. Nobody has it until an
// administrator binds it.
const Reader = "gantry-audit-reader"

// ReaderRole is that role.
func ReaderRole() *rbacv1.ClusterRole {
	return rights.Role(Reader, []rbacv1.PolicyRule{{Verbs: []string{"get"}, NonResourceURLs: []string{Prefix + "*"}}})
}

// Bounds of one question.
const (
	defaultLimit, maxLimit = 100, 1000
	maxRead                = 64 << 20 // bytes
)

// Config says where the logs are; a log that does not exist is empty.
type Config struct {
	API     string // path of the API server's
	Gateway string // path of the gateway's
}

// List is the answer: the latest entries first, as they are in the log.
type List struct {
	Entries []json.RawMessage `json:"entries"`
	// Complete says that nothing older matches; else before= and the time of the last entry go on.
	Complete bool `json:"complete"`
}

// New returns the handler of Prefix.
func New(cfg Config) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET "+Prefix+"api/v1/events", source{cfg.API, apiEvent})
	mux.Handle("GET "+Prefix+"api/v1/requests", source{cfg.Gateway, gatewayRequest})
	return mux
}

// source is a log and the way to understand its lines.
type source struct {
	path  string
	parse func([]byte) (facts, error)
}

// facts are what can be asked for.
type facts struct {
	at                        time.Time
	user, verb, namespace, of string
}

// apiEvent understands an audit.k8s.io/v1 Event.
func apiEvent(line []byte) (facts, error) {
	var e struct {
		Verb             string
		User             struct{ Username string }
		ImpersonatedUser *struct{ Username string }
		ObjectRef        struct{ Namespace, Resource string }
		RequestReceived  time.Time `json:"requestReceivedTimestamp"`
	}
	err := json.Unmarshal(line, &e)
	who := e.User.Username
	if e.ImpersonatedUser != nil {
		who = e.ImpersonatedUser.Username
	}
	return facts{e.RequestReceived, who, e.Verb, e.ObjectRef.Namespace, e.ObjectRef.Resource}, err
}

// gatewayRequest understands a line of the gateway's log.
func gatewayRequest(line []byte) (facts, error) {
	var e struct {
		Time   time.Time
		Who    struct{ Name string }
		Method string
		Route  string
	}
	err := json.Unmarshal(line, &e)
	_, rest, _ := strings.Cut(e.Route, "/") // Kind/namespace/name
	namespace, _, _ := strings.Cut(rest, "/")
	return facts{e.Time, e.Who.Name, e.Method, namespace, e.Route}, err
}

// question is what is asked for. Empty parts ask for everything.
type question struct {
	limit                     int
	after, before             time.Time
	user, verb, namespace, of string
	text                      []byte // lower case
}

func ask(v url.Values) (question, error) {
	q := question{limit: defaultLimit}
	for name, values := range v {
		value := values[0]
		var err error
		switch name {
		case "limit":
			q.limit, err = strconv.Atoi(value)
			if err == nil && (q.limit < 1 || q.limit > maxLimit) {
				err = fmt.Errorf("it must be 1 to %d", maxLimit)
			}
		case "after":
			q.after, err = time.Parse(time.RFC3339, value)
		case "before":
			q.before, err = time.Parse(time.RFC3339, value)
		case "user":
			q.user = value
		case "verb":
			q.verb = value
		case "namespace":
			q.namespace = value
		case "resource":
			q.of = value
		case "text":
			q.text = bytes.ToLower([]byte(value))
		default:
			err = fmt.Errorf("there are limit, after, before, user, verb, namespace, resource and text")
		}
		if err != nil {
			return q, fmt.Errorf("parameter %q: %w", name, err)
		}
	}
	return q, nil
}

// wants tells whether an entry is asked for, and whether older ones can be.
func (q *question) wants(line []byte, f facts) (yes, older bool) {
	switch {
	case !q.after.IsZero() && f.at.Before(q.after):
		return false, false
	case !q.before.IsZero() && !f.at.Before(q.before):
		return false, true
	}
	is := func(asked, have string) bool { return asked == "" || asked == have }
	return is(q.user, f.user) && is(q.verb, f.verb) && is(q.namespace, f.namespace) && is(q.of, f.of) &&
		(len(q.text) == 0 || bytes.Contains(bytes.ToLower(line), q.text)), true
}

// ServeHTTP implements http.Handler.
func (s source) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	q, err := ask(r.URL.Query())
	if err != nil {
		answer(w, http.StatusBadRequest, &metav1.Status{
			TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}, Status: metav1.StatusFailure,
			Reason: metav1.StatusReasonBadRequest, Code: http.StatusBadRequest, Message: err.Error()})
		return
	}
	list, err := s.list(q)
	if err != nil {
		answer(w, http.StatusInternalServerError, &metav1.Status{
			TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}, Status: metav1.StatusFailure,
			Reason: metav1.StatusReasonInternalError, Code: http.StatusInternalServerError, Message: err.Error()})
		return
	}
	answer(w, http.StatusOK, list)
}

func answer(w http.ResponseWriter, status int, what any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(what) // the client is gone when this fails
}

// list reads back from the end of the log. Lines are in the order in which requests ended, so those that
// took long may be older than their neighbours.
func (s source) list(q question) (*List, error) {
	out := &List{Entries: []json.RawMessage{}}
	const longest = time.Minute // that a request takes, but for streams
	var stop bool
	read, err := backwards(s.path, maxRead, func(line []byte) bool {
		f, err := s.parse(line)
		if err != nil {
			return true // a line that a crash cut short
		}
		yes, older := q.wants(line, f)
		if yes {
			if len(out.Entries) == q.limit {
				return false
			}
			out.Entries = append(out.Entries, bytes.Clone(line))
		}
		stop = !older && f.at.Before(q.after.Add(-longest))
		return !stop
	})
	out.Complete = read || stop
	return out, err
}
