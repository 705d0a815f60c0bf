package alertmanager

import (
	"cmp"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// Receiver is what `gantry alerts receiver add` asks for: one way to be told, with a route to it.
type Receiver struct {
	Name string
	Kind string // one of Kinds
	// Secret is the URL of a webhook or of Slack's incoming webhook, the key of PagerDuty or Opsgenie, or the
	// password for email, which may be empty.
	Secret string
	// Severities and Namespaces are what it is told of; nil is critical and warning, and everywhere.
	Severities, Namespaces []string
	// Heartbeat makes it one that expects the Watchdog this often, and gets nothing else; 0 is no heartbeat.
	Heartbeat time.Duration

	APIURL   string // of Slack, PagerDuty or Opsgenie elsewhere than at its maker's
	Channel  string // of Slack
	Email    Email
	Resolved bool // is told of the end as well
}

// Email is how mail is sent.
type Email struct {
	To, From, Smarthost, Username string
	Plain                         bool // without TLS
}

// Kinds are the kinds of receivers that can be added, and what their secret is.
var Kinds = map[string]string{
	"webhook": "the URL", "slack": "the URL of the incoming webhook", "email": "the password, if there is a user name",
	"pagerduty": "the routing key of an Events API v2 integration", "opsgenie": "the API key",
}

var receiverName = regexp.MustCompile(`^[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?$`)

// check says what is missing.
func (r *Receiver) check() error {
	secret, known := Kinds[r.Kind]
	switch {
	case !known:
		return fmt.Errorf("receiver kind %q is not one of webhook, slack, email, pagerduty and opsgenie", r.Kind)
	case !receiverName.MatchString(r.Name):
		return fmt.Errorf("receiver name %q: lower case letters, digits, '-' and '.' are allowed", r.Name)
	case r.Kind != "email" && r.Secret == "":
		return fmt.Errorf("receiver %s needs its secret: %s", r.Name, secret)
	case r.Kind == "email" && (r.Email.To == "" || r.Email.From == "" || r.Email.Smarthost == ""):
		return fmt.Errorf("receiver %s needs the addresses to and from, and the smarthost, HOST:PORT", r.Name)
	case r.Kind == "email" && r.Email.Username != "" && r.Secret == "":
		return fmt.Errorf("receiver %s needs the password of %s", r.Name, r.Email.Username)
	case r.Kind == "webhook" || r.Kind == "slack":
		// Checked here, because Alertmanager's own error repeats it.
		if u, err := url.Parse(r.Secret); err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
			return fmt.Errorf("receiver %s: what was given is not a URL that begins with http:// or https://", r.Name)
		}
	}
	return nil
}

// object is a mapping whose keys are written in this order.
type object []any

func (o object) MarshalYAML() (any, error) {
	n := &yaml.Node{Kind: yaml.MappingNode}
	for i := 0; i < len(o); i += 2 {
		if o[i+1] == "" || o[i+1] == nil {
			continue // is not asked for
		}
		var value yaml.Node
		if err := value.Encode(o[i+1]); err != nil {
			return nil, err
		}
		n.Content = append(n.Content, &yaml.Node{Kind: yaml.ScalarNode, Value: o[i].(string)}, &value)
	}
	return n, nil
}

// stanza is the receiver as Alertmanager's configuration has it.
func (r *Receiver) stanza() object {
	resolved := r.Resolved && r.Heartbeat == 0
	var how object
	switch r.Kind {
	case "webhook":
		how = object{"url", r.Secret}
	case "slack":
		how = object{"api_url", r.Secret, "channel", r.Channel}
	case "email":
		how = object{"to", r.Email.To, "from", r.Email.From, "smarthost", r.Email.Smarthost, "auth_username", r.Email.Username,
			"auth_password", r.Secret, "require_tls", !r.Email.Plain, "text", `{{ template "gantry.text" . }}`}
	case "pagerduty":
		how = object{"routing_key", r.Secret, "url", r.APIURL, "severity", `{{ if eq .CommonLabels.severity "critical" }}critical{{ else }}warning{{ end }}`}
	case "opsgenie":
		how = object{"api_key", r.Secret, "api_url", r.APIURL, "priority", `{{ if eq .CommonLabels.severity "critical" }}P1{{ else }}P3{{ end }}`}
	}
	return object{"name", r.Name, r.Kind + "_configs", []object{append(how, "send_resolved", resolved)}}
}

func (r *Receiver) route() object {
	if r.Heartbeat > 0 {
		return object{"receiver", r.Name, "continue", true, "matchers", []string{`alertname="Watchdog"`},
			"group_wait", "0s", "group_interval", r.Heartbeat.String(), "repeat_interval", (r.Heartbeat / 2).String()}
	}
	severities := r.Severities
	if len(severities) == 0 {
		severities = []string{"critical", "warning"}
	}
	matchers := []string{oneOf("severity", severities)}
	if len(r.Namespaces) > 0 {
		matchers = append(matchers, oneOf("namespace", r.Namespaces))
	}
	return object{"receiver", r.Name, "continue", true, "matchers", matchers}
}

func oneOf(label string, values []string) string {
	quoted := make([]string, len(values))
	for i, v := range values {
		quoted[i] = regexp.QuoteMeta(v)
	}
	return fmt.Sprintf("%s=~%q", label, strings.Join(quoted, "|"))
}

// AddReceiver is the configuration with one receiver more, and a route to it beside the others. What else
// is there stays as it is, comments included.
func AddReceiver(text []byte, r Receiver) ([]byte, error) {
	if err := r.check(); err != nil {
		return nil, err
	}
	return edit(text, func(root *yaml.Node) error {
		receivers, err := sequence(root, "receivers")
		if err != nil {
			return err
		}
		if slices.ContainsFunc(receivers.Content, func(n *yaml.Node) bool { return scalar(n, "name") == r.Name }) {
			return fmt.Errorf("receiver %s is there already", r.Name)
		}
		route := field(root, "route")
		if route == nil {
			return errors.New("there is no route")
		}
		routes, err := sequence(route, "routes")
		if err != nil {
			return err
		}
		return errors.Join(add(receivers, r.stanza()), add(routes, r.route()))
	})
}

// ErrNoReceiver says that there is no receiver of a name.
var ErrNoReceiver = errors.New("there is no such receiver")

// RemoveReceiver is the configuration without a receiver and the routes to it.
func RemoveReceiver(text []byte, name string) ([]byte, error) {
	return edit(text, func(root *yaml.Node) error {
		receivers, err := sequence(root, "receivers")
		if err != nil {
			return err
		}
		before := len(receivers.Content)
		receivers.Content = slices.DeleteFunc(receivers.Content, func(n *yaml.Node) bool { return scalar(n, "name") == name })
		if len(receivers.Content) == before {
			return fmt.Errorf("receiver %s: %w", name, ErrNoReceiver)
		}
		route := field(root, "route")
		if scalar(route, "receiver") == name {
			return fmt.Errorf("receiver %s is told what no other route is for: name another one in the configuration first", name)
		}
		removeRoutes(route, name)
		return nil
	})
}

func removeRoutes(route *yaml.Node, receiver string) {
	routes := field(route, "routes")
	if routes == nil {
		return
	}
	routes.Content = slices.DeleteFunc(routes.Content, func(n *yaml.Node) bool { return scalar(n, "receiver") == receiver })
	for _, n := range routes.Content {
		removeRoutes(n, receiver)
	}
}

// edit changes a configuration and holds the result to what Load accepts.
func edit(text []byte, change func(root *yaml.Node) error) ([]byte, error) {
	var document yaml.Node
	if err := yaml.Unmarshal(text, &document); err != nil {
		return nil, fmt.Errorf("read the configuration: %w", err)
	}
	if len(document.Content) != 1 || document.Content[0].Kind != yaml.MappingNode {
		return nil, errors.New("read the configuration: it is not a mapping")
	}
	if err := change(document.Content[0]); err != nil {
		return nil, err
	}
	var out strings.Builder
	e := yaml.NewEncoder(&out)
	e.SetIndent(2)
	if err := cmp.Or(e.Encode(&document), e.Close()); err != nil {
		return nil, fmt.Errorf("write the configuration: %w", err)
	}
	if _, err := Load([]byte(out.String())); err != nil {
		return nil, err
	}
	return []byte(out.String()), nil
}

// field is the value of a key of a mapping, or nil.
func field(n *yaml.Node, key string) *yaml.Node {
	if n == nil || n.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == key {
			return n.Content[i+1]
		}
	}
	return nil
}

func scalar(n *yaml.Node, key string) string {
	if v := field(n, key); v != nil {
		return v.Value
	}
	return ""
}

// sequence is the list under a key of a mapping, made if it is not there.
func sequence(n *yaml.Node, key string) (*yaml.Node, error) {
	list := field(n, key)
	if list == nil {
		list = &yaml.Node{Kind: yaml.SequenceNode}
		n.Content = append(n.Content, &yaml.Node{Kind: yaml.ScalarNode, Value: key}, list)
	}
	if list.Kind != yaml.SequenceNode {
		return nil, fmt.Errorf("%s is not a list", key)
	}
	return list, nil
}

func add(list *yaml.Node, o object) error {
	var n yaml.Node
	if err := n.Encode(o); err != nil {
		return err
	}
	list.Style = 0
	list.Content = append(list.Content, &n)
	return nil
}
