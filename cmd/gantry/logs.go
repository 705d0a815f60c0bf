package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"os/signal"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/selection"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/gantryhq/gantry/internal/hint"
)

// logsFlags say which lines are asked for.
type logsFlags struct {
	namespace, selector, container, grep, query string
	all, follow, expression, ignoreCase, times  bool
	since                                       time.Duration
	tail                                        int
}

func newLogsCommand(g *globals) *cobra.Command {
	o := &logsFlags{}
	var output *string
	c := &cobra.Command{
		Use:   "logs [APP|POD]",
		Short: "Show, search and follow what containers write, also those that are gone",
		Long: "Shows the logs of an application, a workload (deployment/NAME) or a pod, or of the whole\n" +
			"namespace: the last 200 lines of the past hour, unless --since or --tail says otherwise.\n" +
			"Control characters in lines are shown as text.",
		Example: "  gantry logs -n shop storefront -f\n" +
			"  gantry logs -A --since 24h --grep ord-7319\n" +
			"  gantry logs -n shop -l tier=backend --grep 'timeout|refused' -E\n" +
			"  gantry logs --query '{namespace=\"shop\"} | json | status >= 500'",
		Args: cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			cfg, err := g.config()
			if err != nil {
				return err
			}
			ctx, stop := signal.NotifyContext(c.Context(), syscall.SIGINT, syscall.SIGTERM)
			defer stop()
			r, err := newLogReader(cfg)
			if err != nil {
				return err
			}
			if !c.Flags().Changed("tail") && c.Flags().Changed("since") {
				o.tail = 0
			}
			return r.show(ctx, c.OutOrStdout(), c.ErrOrStderr(), o, strings.Join(args, ""), *output == "json")
		},
	}
	output = outputFlag(c)
	f := c.Flags()
	f.StringVarP(&o.namespace, "namespace", "n", "default", "namespace whose logs are shown")
	f.BoolVarP(&o.all, "all-namespaces", "A", false, "all namespaces whose logs you may see")
	f.StringVarP(&o.selector, "selector", "l", "", "labels of the pods, as with kubectl")
	f.StringVarP(&o.container, "container", "c", "", "only this container")
	f.StringVar(&o.grep, "grep", "", "only lines that contain this text")
	f.BoolVarP(&o.expression, "regexp", "E", false, "the text of --grep is a regular expression")
	f.BoolVarP(&o.ignoreCase, "ignore-case", "i", false, "the text of --grep may be in upper and lower case")
	f.StringVar(&o.query, "query", "", "LogQL instead of the other selections")
	f.BoolVarP(&o.follow, "follow", "f", false, "go on with new lines as they come")
	f.BoolVarP(&o.times, "timestamps", "t", false, "show when each line was written")
	f.DurationVar(&o.since, "since", time.Hour, "how far to look back")
	f.IntVar(&o.tail, "tail", 200, "how many of the newest lines; 0 is all")
	return c
}

// logReader asks the log service.
type logReader struct {
	cfg    *rest.Config
	client rest.Interface
}

func newLogReader(cfg *rest.Config) (*logReader, error) {
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return nil, fmt.Errorf("read logs: %w", err)
	}
	return &logReader{cfg, client.CoreV1().RESTClient()}, nil
}

// get asks the API below /loki/api/v1/.
func (r *logReader) get(ctx context.Context, path string, params url.Values, into any) error {
	return getService(ctx, r.client, "read logs", "/loki/api/v1/"+path, params, into)
}

// ask asks a service of the installation that answers in JSON.
func (g *globals) ask(ctx context.Context, what, path string, params url.Values, into any) error {
	cfg, err := g.config()
	if err != nil {
		return err
	}
	r, err := newLogReader(cfg)
	if err != nil {
		return err
	}
	return getService(ctx, r.client, what, path, params, into)
}

// getService asks a service that answers in JSON, and explains why when it does not.
func getService(ctx context.Context, client rest.Interface, what, path string, params url.Values, into any) error {
	request := client.Get().AbsPath(path)
	for name, values := range params {
		for _, v := range values {
			request = request.Param(name, v)
		}
	}
	text, err := request.DoRaw(ctx)
	switch {
	case apierrors.IsNotFound(err):
		return hint.Wrap(fmt.Errorf("%s: nothing answers at %s", what, path), "start `gantry serve` without --no-logs and --no-metrics; other clusters do not have this yet")
	case apierrors.IsServiceUnavailable(err) && len(text) == 0:
		return hint.Wrap(fmt.Errorf("%s: the service is starting", what), "try again in a moment")
	case err != nil && len(text) > 0:
		return fmt.Errorf("%s: %s", what, strings.TrimSpace(string(text)))
	case err != nil:
		return fmt.Errorf("%s: %w", what, err)
	}
	if err := json.Unmarshal(text, into); err != nil {
		return fmt.Errorf("%s: read the answer: %w", what, err)
	}
	return nil
}

// logStream is what the API answers of one log, or of lines of one log.
type logStream struct {
	Labels map[string]string `json:"stream"`
	Values [][2]string       `json:"values"` // nanoseconds since 1970, text
}

func (r *logReader) show(ctx context.Context, out, notes io.Writer, o *logsFlags, name string, asJSON bool) error {
	query := o.query
	if query == "" {
		var err error
		if query, err = r.queryFor(ctx, o, name); err != nil {
			return err
		}
	}
	p := newLogPrinter(out, o, asJSON)
	start := time.Now().Add(-o.since)
	if o.follow {
		return r.follow(ctx, p, notes, query, start, o.tail)
	}
	lines, err := r.lines(ctx, query, start, time.Now(), o.tail, p.print)
	if err == nil && lines == 0 {
		fmt.Fprintf(notes, "nothing was written in the past %s\n", o.since)
	}
	return err
}

// queryFor is the selection of the flags in LogQL.
func (r *logReader) queryFor(ctx context.Context, o *logsFlags, name string) (string, error) {
	matchers := []string{"namespace=" + strconv.Quote(o.namespace)}
	if o.all {
		matchers = []string{`namespace=~".+"`}
	}
	if o.container != "" {
		matchers = append(matchers, "container="+strconv.Quote(o.container))
	}
	chosen, err := selectorMatchers(o.selector)
	if err != nil {
		return "", err
	}
	matchers = append(append(matchers, `pod!=""`), chosen...)
	if name != "" {
		m, err := r.named(ctx, o, "{"+strings.Join(matchers, ",")+"}", name)
		if err != nil {
			return "", err
		}
		matchers = append(matchers, m)
	}
	query := "{" + strings.Join(matchers, ",") + "}"
	switch {
	case o.grep == "":
	case o.expression || o.ignoreCase:
		text := o.grep
		if !o.expression {
			text = regexp.QuoteMeta(text)
		}
		if o.ignoreCase {
			text = "(?i)" + text
		}
		query += " |~ " + strconv.Quote(text)
	default:
		query += " |= " + strconv.Quote(o.grep)
	}
	return query, nil
}

// selectorMatchers are a selector of labels, as kubectl has it, in LogQL.
func selectorMatchers(text string) (matchers []string, err error) {
	parsed, err := labels.Parse(text)
	if err != nil {
		return nil, usageError{fmt.Errorf("--selector: %w", err)}
	}
	requirements, _ := parsed.Requirements()
	for _, q := range requirements {
		name := regexp.MustCompile(`[^a-zA-Z0-9_]`).ReplaceAllString(q.Key(), "_")
		var values []string
		for v := range q.Values() {
			values = append(values, regexp.QuoteMeta(v))
		}
		slices.Sort(values)
		any := strconv.Quote(strings.Join(values, "|"))
		switch q.Operator() {
		case selection.Equals, selection.DoubleEquals, selection.In:
			matchers = append(matchers, name+"=~"+any)
		case selection.NotEquals, selection.NotIn:
			matchers = append(matchers, name+"!~"+any)
		case selection.Exists:
			matchers = append(matchers, name+`!=""`)
		case selection.DoesNotExist:
			matchers = append(matchers, name+`=""`)
		default:
			return nil, usageError{fmt.Errorf("--selector: %s cannot be asked of logs", q.String())}
		}
	}
	return matchers, nil
}

// named finds out what a name means: a pod, a workload or an application that has written something.
func (r *logReader) named(ctx context.Context, o *logsFlags, among, name string) (string, error) {
	kind, rest, isPath := strings.Cut(name, "/")
	if isPath {
		name = rest
	}
	var answer struct {
		Data []map[string]string `json:"data"`
	}
	params := url.Values{"match[]": {among}, "start": {strconv.FormatInt(time.Now().Add(-max(o.since, 24*time.Hour)).UnixNano(), 10)}}
	if err := r.get(ctx, "series", params, &answer); err != nil {
		return "", err
	}
	known := map[string]bool{}
	for _, label := range []string{"pod", "workload", "app"} {
		if isPath && (label == "pod") != (kind == "pod" || kind == "pods" || kind == "po") {
			continue
		}
		for _, l := range answer.Data {
			if l[label] == name {
				return label + "=" + strconv.Quote(name), nil
			}
		}
	}
	for _, l := range answer.Data {
		known[cmp.Or(l["app"], l["pod"])] = true
	}
	where := "namespace " + o.namespace
	if o.all {
		where = "any namespace"
	}
	err := fmt.Errorf("no application, workload or pod %q has written anything in %s lately", name, where)
	if len(known) == 0 {
		return "", hint.Wrap(err, "name the namespace with -n, or all with -A")
	}
	names := make([]string, 0, len(known))
	for n := range known {
		names = append(names, n)
	}
	slices.Sort(names)
	return "", hint.Wrap(err, "there are: %s", strings.Join(names[:min(20, len(names))], ", "))
}

// pageLines is how many lines are asked for at once.
const pageLines = 5000

// lines prints the lines of a time, the oldest first, and returns how many there were. With a tail it is the last ones.
func (r *logReader) lines(ctx context.Context, query string, start, end time.Time, tail int, print func(logLine) error) (n int, err error) {
	params := url.Values{"query": {query}, "end": {strconv.FormatInt(end.UnixNano(), 10)}, "direction": {"forward"}, "limit": {strconv.Itoa(pageLines)}}
	if tail > 0 {
		params.Set("direction", "backward")
		params.Set("limit", strconv.Itoa(min(tail, pageLines)))
	}
	var before []logLine // printed, of the newest time
	for from := start.UnixNano(); ; {
		params.Set("start", strconv.FormatInt(from, 10))
		var answer struct {
			Data struct {
				Type   string      `json:"resultType"`
				Result []logStream `json:"result"`
			} `json:"data"`
		}
		if err := r.get(ctx, "query_range", params, &answer); err != nil {
			return n, err
		}
		if answer.Data.Type != "streams" {
			return n, usageError{fmt.Errorf("--query asks for numbers, not for lines")}
		}
		page := sortedLines(answer.Data.Result, tail > 0)
		for _, l := range page {
			if l.at == from && slices.ContainsFunc(before, l.same) {
				continue
			}
			if err := print(l); err != nil {
				return n, err
			}
			n++
		}
		if tail > 0 || len(page) < pageLines {
			return n, nil
		}
		last := page[len(page)-1].at
		if before = slices.DeleteFunc(page, func(l logLine) bool { return l.at != last }); last == from {
			last++ // more lines of one moment than are answered at once
		}
		from = last
	}
}
