package console

import (
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/client-go/rest"
)

// Prefix is the path below which everything is.
const Prefix = "/console/"

// Config says whose API the console shows.
type Config struct {
	// API is where the API is and how it proves that it is. Credentials in it are not used.
	API *rest.Config
	// Register adds metrics; nil is nowhere.
	Register func(...prometheus.Collector)
	Log      *slog.Logger     // nil is slog.Default
	Now      func() time.Time // nil is time.Now
}

// Console answers below [Prefix]. It is safe for concurrent use.
type Console struct {
	sessions *sessions
	api      *url.URL
	client   *http.Client // without credentials
	forward  http.Handler
	pages    *pages
	log      *slog.Logger
	now      func() time.Time
	mux      *http.ServeMux
}

// New returns a console. It does not ask the API for anything before somebody logs in.
func New(cfg Config) (*Console, error) {
	anonymous := rest.AnonymousClientConfig(cfg.API)
	transport, err := rest.TransportFor(anonymous)
	if err != nil {
		return nil, fmt.Errorf("set up the console: %w", err)
	}
	api, _, err := rest.DefaultServerUrlFor(anonymous)
	if err != nil {
		return nil, fmt.Errorf("set up the console: %w", err)
	}
	c := &Console{api: api, log: cfg.Log, now: cfg.Now}
	if c.log == nil {
		c.log = slog.Default()
	}
	if c.now == nil {
		c.now = time.Now
	}
	c.client = &http.Client{Transport: transport, Timeout: askPatience,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	c.sessions = newSessions(c.now)
	c.forward = c.newForward(transport)
	if c.pages, err = newPages(built); err != nil {
		return nil, err
	}
	if cfg.Register != nil {
		cfg.Register(c.sessions.metrics()...)
	}
	c.mux = http.NewServeMux()
	c.mux.HandleFunc(Prefix, c.pages.serve)
	c.mux.HandleFunc("POST "+Prefix+"session", c.logIn)
	c.mux.HandleFunc("GET "+Prefix+"session", c.whoAmI)
	c.mux.HandleFunc("DELETE "+Prefix+"session", c.logOut)
	c.mux.HandleFunc("POST "+Prefix+"session/code", c.newCode)
	c.mux.HandleFunc(forwardPrefix, c.forwarded)
	return c, nil
}

// ServeHTTP implements [http.Handler].
func (c *Console) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	// An API server ends the connection of whoever has not shown it who they are (its feature
	// UnauthenticatedHTTP2DOSMitigation), which all who come with a cookie have not. A page loads
	// many things at once and loses some of them then; Go's own limits of a connection remain.
	h.Del("Connection")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	c.mux.ServeHTTP(w, r)
}
