package translate

import (
	"slices"
	"strings"

	"github.com/gantryhq/gantry/api/v1alpha1"
)

// settled are annotations with the values that ask for what is done here anyway, and why
// other values have no effect. "" stands for any value: nobody sees a difference.
var settled = map[string]struct {
	values []string
	why    string
}{
	"proxy-buffering":                          {[]string{"off"}, "responses are passed on as they come"},
	"proxy-request-buffering":                  {[]string{"off"}, "requests are passed on as they come"},
	"proxy-buffer-size":                        {[]string{""}, ""},
	"proxy-buffers-number":                     {[]string{""}, ""},
	"proxy-busy-buffers-size":                  {[]string{""}, ""},
	"proxy-max-temp-file-size":                 {[]string{""}, ""},
	"client-body-buffer-size":                  {[]string{""}, ""},
	"proxy-http-version":                       {[]string{"1.1"}, "backends are spoken to by HTTP/1.1, or by HTTP/2 where their port says so"},
	"service-upstream":                         {[]string{"false"}, "requests go to the endpoints of a Service, never to its own address"},
	"enable-rewrite-log":                       {[]string{"false"}, "there is no such log; /routes of the gateway's admin address shows what is rewritten"},
	"enable-opentelemetry":                     {[]string{"false"}, "the gateway makes no traces; it passes those of others on"},
	"enable-opentracing":                       {[]string{"false"}, "the gateway makes no traces; it passes those of others on"},
	"preserve-trailing-slash":                  {[]string{"false"}, "redirects to HTTPS keep the path as it is"},
	"http2-push-preload":                       {[]string{"false"}, "browsers do not take pushed responses any more"},
	"ssl-redirect":                             {[]string{""}, ""}, // see legacyRedirectAnnotation
	"ssl-prefer-server-ciphers":                {[]string{"true"}, "the gateway chooses the cipher"},
	"connection-proxy-header":                  {[]string{"keep-alive"}, "connections to backends are the gateway's own business"},
	"enable-global-auth":                       {[]string{""}, ""}, // there is none but what policies demand
	"satisfy":                                  {[]string{"all"}, ""},
	"enable-modsecurity":                       {[]string{"false"}, ""},
	"enable-owasp-core-rules":                  {[]string{"false"}, ""},
	"enable-owasp-modsecurity-crs":             {[]string{"false"}, ""},
	"affinity-mode":                            {[]string{"persistent"}, "sessions stay where they are, whatever is added"},
	"affinity-canary-behavior":                 {[]string{"sticky"}, "a session stays at the version where it began"},
	"auth-realm":                               {[]string{"gantry"}, "the realm is gantry"},
	"ssl-passthrough":                          {[]string{"false"}, "use a TLSRoute"},
	"limit-connections":                        {[]string{"0"}, "use limit-rps, or a TrafficPolicy"},
	"session-cookie-change-on-failure":         {[]string{"true"}, "a session always moves when its endpoint fails"},
	"session-cookie-conditional-samesite-none": {[]string{"false"}, "the cookie is the same for all browsers"},
}

// readRest settles what has not been read by now, or reports it.
func (w *wishes) readRest() {
	for _, name := range sortedKeys(w.values) {
		value := w.values[name]
		s, known := settled[name]
		switch {
		case known && (slices.Contains(s.values, "") || slices.Contains(s.values, strings.ToLower(value))):
		case known && s.why != "":
			w.say("annotation %s%s: %s has no effect: %s", annotationPrefix, name, value, s.why)
		default:
			w.unknown(name, value)
		}
	}
}

// readAccessLog reads whether requests are to be logged.
func (w *wishes) readAccessLog(traffic *v1alpha1.TrafficPolicySpec) {
	if w.values["enable-access-log"] != "" && !w.takeBool("enable-access-log") {
		traffic.AccessLog = &v1alpha1.AccessLog{Percent: new(int32(0)), Errors: new(bool)}
	}
	delete(w.values, "enable-access-log")
}
