package translate

import (
	"cmp"
	"fmt"
	"net/http"
	neturl "net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	networkingv1 "k8s.io/api/networking/v1"

	"github.com/gantryhq/gantry/api/v1alpha1"
	"github.com/gantryhq/gantry/services/gateway/route"
)

// annotationPrefix is that of ingress-nginx, whose annotations Ingresses are full of.
const annotationPrefix = "nginx.ingress.kubernetes.io/"

// wishes are what the annotations of an Ingress ask for.
type wishes struct {
	values   map[string]string // by name without the prefix, as far as they were not read
	problems []string
	// broken says why the rules cannot be served: something is missing that protects them.
	broken string

	regex    bool
	rewrite  string // target of a rewrite, or ""
	appRoot  string
	redirect *route.Redirect
	forceTLS bool
	www      bool
	aliases  []string
	http2    bool
	secure   bool    // connections to backends must be encrypted
	canary   *canary // or nil
	rule     route.Rule
	access   *v1alpha1.AccessPolicySpec  // or nil
	traffic  *v1alpha1.TrafficPolicySpec // or nil
}

// canary is how an Ingress takes a part of another one's requests.
type canary struct {
	weight, total              int32
	header, value, pattern     string
	cookie                     string
	backend                    route.Backend
	alwaysPattern, neverCookie *regexp.Regexp
}

// protecting are annotations, or beginnings of their names, that keep somebody out. What
// asks for them is refused rather than served without.
var protecting = []string{"auth-", "satisfy", "enable-modsecurity", "modsecurity-", "enable-owasp-"}

// barrier finds directives in a piece of nginx's configuration that keep somebody out.
var barrier = regexp.MustCompile(`\b(deny|allow|auth_\w+|return|limit_\w+|satisfy|if)\b`)

// readAnnotations reads the annotations of an Ingress. Whatever it cannot follow is in
// the problems; the rest is followed all the same.
func readAnnotations(i *networkingv1.Ingress) *wishes {
	w := &wishes{values: map[string]string{}}
	for name, value := range i.Annotations {
		if name, ok := strings.CutPrefix(name, annotationPrefix); ok {
			w.values[name] = strings.TrimSpace(value)
		}
	}
	if len(w.values) == 0 {
		return w
	}
	w.readPaths()
	w.readRedirects()
	w.readTimeouts()
	w.readRetries()
	w.readBalancing()
	w.readCORS()
	w.readCanary()
	w.readBackend()
	w.readGuard()
	w.readRest()
	return w
}

// unknown reports an annotation that nobody has read.
func (w *wishes) unknown(name, value string) {
	switch {
	case slices.ContainsFunc(protecting, func(p string) bool { return strings.HasPrefix(name, p) }):
		w.fail("annotation %s%s is not supported, so its rules answer 500: use an AccessPolicy, and remove it", annotationPrefix, name)
	case strings.HasSuffix(name, "-snippet") && barrier.MatchString(value):
		w.fail("annotation %s%s is configuration of nginx that keeps requests out, so its rules answer 500: use an AccessPolicy, and remove it", annotationPrefix, name)
	default:
		w.say("annotation %s%s has no effect", annotationPrefix, name)
	}
}

func (w *wishes) say(format string, args ...any) {
	w.problems = append(w.problems, fmt.Sprintf(format, args...))
}

// fail has the rules answer 500.
func (w *wishes) fail(format string, args ...any) {
	w.say(format, args...)
	w.broken = cmp.Or(w.broken, w.problems[len(w.problems)-1])
}

// take returns an annotation's value, "" if there is none.
func (w *wishes) take(name string) string {
	v := w.values[name]
	delete(w.values, name)
	return v
}

// wrong reports a value that cannot be read.
func (w *wishes) wrong(name, value, want string) {
	w.say("annotation %s%s has the value %q, which is not %s: it has no effect", annotationPrefix, name, value, want)
}

func (w *wishes) takeBool(name string) bool {
	v := w.take(name)
	b, err := strconv.ParseBool(v)
	if err != nil && v != "" {
		w.wrong(name, v, "true or false")
	}
	return b
}

func (w *wishes) takeNumber(name string, otherwise int) int {
	v := w.take(name)
	if v == "" {
		return otherwise
	}
	n, err := strconv.Atoi(v)
	if err != nil || n < 0 {
		w.wrong(name, v, "a number")
		return otherwise
	}
	return n
}

// takeTime reads seconds, with or without their unit.
func (w *wishes) takeTime(name string) time.Duration {
	v := w.take(name)
	if v == "" {
		return 0
	}
	if n, err := strconv.Atoi(v); err == nil && n >= 0 {
		return time.Duration(n) * time.Second
	}
	d, err := time.ParseDuration(v)
	if err != nil || d < 0 {
		w.wrong(name, v, "a number of seconds")
		return 0
	}
	return d
}

// takeList reads values that are separated by commas.
func (w *wishes) takeList(name string) (list []string) {
	for v := range strings.SplitSeq(w.take(name), ",") {
		if v = strings.TrimSpace(v); v != "" {
			list = append(list, v)
		}
	}
	return list
}

func (w *wishes) readPaths() {
	w.regex = w.takeBool("use-regex")
	w.rewrite = w.take("rewrite-target")
	w.appRoot = w.take("app-root")
	if w.appRoot != "" && !strings.HasPrefix(w.appRoot, "/") {
		w.wrong("app-root", w.appRoot, "a path")
		w.appRoot = ""
	}
	for _, a := range w.takeList("server-alias") {
		if strings.HasPrefix(a, "~") {
			w.wrong("server-alias", a, "a host name")
			continue
		}
		w.aliases = append(w.aliases, strings.ToLower(a))
	}
}

func (w *wishes) readRedirects() {
	w.forceTLS = w.takeBool("force-ssl-redirect")
	w.www = w.takeBool("from-to-www-redirect")
	to := func(name string, status int) {
		v := w.take(name)
		if v == "" {
			return
		}
		if _, err := neturl.Parse(v); err != nil {
			w.fail("annotation %s%s has the value %q, which is no URL", annotationPrefix, name, v)
			return
		}
		w.redirect = &route.Redirect{Location: v, Status: status}
	}
	to("permanent-redirect", w.takeNumber("permanent-redirect-code", http.StatusMovedPermanently))
	to("temporal-redirect", w.takeNumber("temporal-redirect-code", http.StatusFound))
}

func (w *wishes) readTimeouts() {
	w.rule.ConnectTimeout = w.takeTime("proxy-connect-timeout")
	// nginx has one timeout for the first byte and for those after it.
	w.rule.IdleTimeout = w.takeTime("proxy-read-timeout")
	w.rule.FirstByteTimeout = w.rule.IdleTimeout
}

func (w *wishes) readRetries() {
	conditions := w.take("proxy-next-upstream")
	tries := w.takeNumber("proxy-next-upstream-tries", 3) // ingress-nginx's default
	if conditions == "" {
		if tries == 1 {
			w.rule.Retry = &route.Retry{Attempts: -1}
		}
		return
	}
	retry := &route.Retry{Attempts: tries - 1}
	if tries == 0 { // as many as there are endpoints
		retry.Attempts = 4
	}
	for _, c := range strings.Fields(conditions) {
		code, isCode := strings.CutPrefix(c, "http_")
		n, err := strconv.Atoi(code)
		switch {
		case c == "off":
			retry.Attempts = -1
		case isCode && err == nil:
			retry.Codes = append(retry.Codes, n)
		case c == "error", c == "timeout": // as always
		default:
			w.say("annotation %sproxy-next-upstream: condition %s has no effect", annotationPrefix, c)
		}
	}
	if retry.Attempts == 0 {
		retry.Attempts = -1
	}
	w.rule.Retry = retry
}

func (w *wishes) readBalancing() {
	switch v := w.take("load-balance"); v {
	case "":
	case "round_robin":
		w.rule.Balance = &route.Balance{Method: route.RoundRobin}
	case "ewma", "least_conn":
		w.rule.Balance = &route.Balance{Method: route.LeastRequest}
	case "ip_hash":
		w.rule.Balance = &route.Balance{Method: route.ConsistentHash, Keys: []route.HashKey{{Source: route.ClientAddress}}}
	default:
		w.wrong("load-balance", v, "round_robin, ewma or ip_hash")
	}
	if v := w.take("upstream-hash-by"); v != "" {
		if keys, err := hashKeys(v); err != nil {
			w.say("annotation %supstream-hash-by has no effect: %v", annotationPrefix, err)
		} else {
			w.rule.Balance = &route.Balance{Method: route.ConsistentHash, Keys: keys}
		}
	}
	w.readAffinity()
}

// variable is one of nginx's.
var variable = regexp.MustCompile(`^\$\{?([a-z0-9_]+)\}?`)

// hashKeys reads a text of nginx's variables.
func hashKeys(text string) (keys []route.HashKey, err error) {
	known := map[string]route.HashKey{
		"remote_addr": {Source: route.ClientAddress}, "binary_remote_addr": {Source: route.ClientAddress},
		"host": {Source: route.RequestHost}, "http_host": {Source: route.RequestHost},
		"uri": {Source: route.RequestPath}, "request_uri": {Source: route.RequestPath},
	}
	for rest := text; rest != ""; {
		m := variable.FindStringSubmatch(rest)
		if m == nil {
			rest = rest[1:] // what is between them is the same for all requests
			continue
		}
		rest = rest[len(m[0]):]
		name := m[1]
		kind, of, _ := strings.Cut(name, "_")
		switch key, ok := known[name]; {
		case ok:
			keys = append(keys, key)
		case kind == "http" && of != "":
			keys = append(keys, route.HashKey{Source: route.HeaderValue, Name: strings.ReplaceAll(of, "_", "-")})
		case kind == "cookie" && of != "":
			keys = append(keys, route.HashKey{Source: route.CookieValue, Name: of})
		case kind == "arg" && of != "":
			keys = append(keys, route.HashKey{Source: route.QueryValue, Name: of})
		default:
			return nil, fmt.Errorf("variable $%s is not known: use $remote_addr, $host, $uri, $http_…, $cookie_… or $arg_…", name)
		}
	}
	if len(keys) == 0 {
		return nil, fmt.Errorf("%q has no variable", text)
	}
	return keys, nil
}

func (w *wishes) readAffinity() {
	kind := w.take("affinity")
	s := &route.Session{
		Name:     cmp.Or(w.take("session-cookie-name"), "INGRESSCOOKIE"),
		Path:     w.take("session-cookie-path"),
		Domain:   w.take("session-cookie-domain"),
		SameSite: w.take("session-cookie-samesite"),
		Secure:   w.takeBool("session-cookie-secure"),
		Absolute: cmp.Or(w.takeTime("session-cookie-max-age"), w.takeTime("session-cookie-expires")),
	}
	s.Permanent = s.Absolute > 0
	switch {
	case kind == "":
	case kind != "cookie":
		w.wrong("affinity", kind, "cookie")
	case !isToken(s.Name):
		w.wrong("session-cookie-name", s.Name, "the name of a cookie")
	default:
		w.rule.Session = s
	}
}

func (w *wishes) readCORS() {
	on := w.takeBool("enable-cors")
	credentials := true
	if w.values["cors-allow-credentials"] != "" {
		credentials = w.takeBool("cors-allow-credentials")
	}
	list := func(name string, otherwise ...string) []string {
		if v := w.takeList(name); len(v) > 0 {
			return v
		}
		return otherwise
	}
	c := &route.CORS{
		Origins: list("cors-allow-origin", "*"), Credentials: credentials,
		Methods: list("cors-allow-methods", "GET", "PUT", "POST", "DELETE", "PATCH", "OPTIONS"),
		Headers: list("cors-allow-headers", "DNT", "Keep-Alive", "User-Agent", "X-Requested-With", "If-Modified-Since",
			"Cache-Control", "Content-Type", "Range", "Authorization"),
		Expose: list("cors-expose-headers"), MaxAge: int32(w.takeNumber("cors-max-age", 1728000)),
	}
	if on {
		w.rule.CORS = c
	}
}

func (w *wishes) readCanary() {
	on := w.takeBool("canary")
	c := &canary{
		weight: int32(w.takeNumber("canary-weight", 0)), total: int32(max(1, w.takeNumber("canary-weight-total", 100))),
		header: w.take("canary-by-header"), value: w.take("canary-by-header-value"), pattern: w.take("canary-by-header-pattern"),
		cookie: w.take("canary-by-cookie"),
	}
	c.weight = min(c.weight, c.total)
	if !on {
		return
	}
	w.canary = c
	if c.pattern != "" && c.value == "" {
		var err error
		if c.alwaysPattern, err = regexp.Compile(c.pattern); err != nil {
			w.wrong("canary-by-header-pattern", c.pattern, "a regular expression (RE2)")
			c.header = ""
		}
	}
	if c.cookie != "" && !isToken(c.cookie) {
		w.wrong("canary-by-cookie", c.cookie, "the name of a cookie")
		c.cookie = ""
	}
}

func (w *wishes) readBackend() {
	switch v := strings.ToUpper(w.take("backend-protocol")); v {
	case "", "HTTP", "AUTO_HTTP":
	case "GRPC":
		w.http2 = true
	case "HTTPS", "GRPCS":
		w.http2, w.secure = v == "GRPCS", true
	default:
		w.fail("annotation %sbackend-protocol: %s is not supported: use HTTP, HTTPS, GRPC or GRPCS", annotationPrefix, v)
	}
	if host := w.take("upstream-vhost"); host != "" {
		w.rule.Filters.Rewrite = &route.Rewrite{Host: host}
	}
	if prefix := w.take("x-forwarded-prefix"); prefix != "" {
		w.rule.Filters.Request = &route.HeaderChange{Set: []route.Header{{Name: "X-Forwarded-Prefix", Value: prefix}}}
	}
}
