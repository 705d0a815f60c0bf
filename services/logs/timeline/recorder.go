package timeline

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/cache"

	"github.com/gantryhq/gantry/api/v1alpha1"
	"github.com/gantryhq/gantry/internal/apiclient"
	"github.com/gantryhq/gantry/services/logs/logql"
	"github.com/gantryhq/gantry/services/logs/search"
)

// Config is what a Recorder needs.
type Config struct {
	Factory  informers.SharedInformerFactory // what follows is added to it
	Builds   *apiclient.Client               // or nil where there are none
	Workload func(*corev1.Pod) string        // what owns a pod
	Source   search.Source                   // what was recorded before
	// Write adds a line to the log of a namespace.
	Write func(namespace string, at time.Time, line []byte) error
	Log   *slog.Logger
}

// Recorder writes changes as they come.
type Recorder struct {
	cfg    Config
	synced []cache.InformerSynced

	mu        sync.Mutex // guards following
	ready     bool       // what was recorded before is known
	early     []*Event   // what came before that
	seen      map[uint64]time.Time
	templates map[string][]rollout // by namespace/kind/name: what was rolled out, the oldest first
}

// rollout is a template that was rolled out.
type rollout struct {
	at       time.Time
	template string
	images   map[string]string
}

const (
	// maxRemembered is how many events are known again after a restart.
	maxRemembered = 20000
	maxRollouts   = 10
)

// NewRecorder prepares to follow the API; the factory is to be started.
func NewRecorder(cfg Config) (*Recorder, error) {
	r := &Recorder{cfg: cfg, seen: map[uint64]time.Time{}, templates: map[string][]rollout{}}
	apps, core := cfg.Factory.Apps().V1(), cfg.Factory.Core().V1()
	pods := core.Pods().Informer() // whose transformation is another's
	var failure error
	for _, i := range []cache.SharedIndexInformer{apps.Deployments().Informer(), apps.StatefulSets().Informer(), apps.DaemonSets().Informer(), core.ConfigMaps().Informer()} {
		failure = errors.Join(failure, i.SetTransform(summarize))
		r.follow(i, &failure)
	}
	events := core.Events().Informer()
	failure = errors.Join(failure, events.SetTransform(onlyWarnings))
	r.follow(events, &failure)
	r.follow(pods, &failure)
	if failure != nil {
		return nil, fmt.Errorf("follow changes: %w", failure)
	}
	return r, nil
}

func (r *Recorder) follow(i cache.SharedIndexInformer, failure *error) {
	h, err := i.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(o any) { r.notice(nil, o) }, UpdateFunc: r.notice,
	})
	*failure = errors.Join(*failure, err)
	if err == nil {
		r.synced = append(r.synced, h.HasSynced)
	}
}

// onlyWarnings lets go of what other events say.
func onlyWarnings(o any) (any, error) {
	if e, ok := o.(*corev1.Event); ok {
		slim := &corev1.Event{ObjectMeta: named(&e.ObjectMeta), Type: e.Type}
		if e.Type == corev1.EventTypeWarning {
			slim.InvolvedObject, slim.Reason, slim.Message, slim.Source = e.InvolvedObject, e.Reason, e.Message, e.Source
			slim.LastTimestamp, slim.EventTime, slim.Series = e.LastTimestamp, e.EventTime, e.Series
		}
		return slim, nil
	}
	return o, nil
}

// Run records until ctx ends.
func (r *Recorder) Run(ctx context.Context) {
	if !cache.WaitForCacheSync(ctx.Done(), r.synced...) {
		return
	}
	if err := r.remember(ctx); err != nil && ctx.Err() == nil {
		r.cfg.Log.Warn("cannot read the former time line; changes may be in it twice", "err", err)
	}
	r.mu.Lock()
	early := r.early
	r.ready, r.early = true, nil
	for _, e := range early {
		r.write(e)
	}
	r.mu.Unlock()
	if r.cfg.Builds != nil {
		r.followBuilds(ctx)
	}
	<-ctx.Done()
}

// remember reads what was recorded before.
func (r *Recorder) remember(ctx context.Context) error {
	list, err := read(ctx, r.cfg.Source, Filter{From: time.Unix(0, 0), To: time.Now().Add(time.Hour), Limit: maxRemembered, May: func(string) bool { return true }})
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := len(list) - 1; i >= 0; i-- { // the oldest first
		e := &list[i]
		r.seen[e.id()] = e.Time
		if e.Kind == "deploy" || e.Kind == "rollback" {
			images := map[string]string{}
			for _, pair := range strings.Split(e.Details["images"], ",") {
				name, image, _ := strings.Cut(pair, "=")
				images[name] = image
			}
			r.rolledOut(e.Namespace+"/"+e.Object, rollout{e.Time, e.Details["template"], images})
		}
	}
	return nil
}

func (r *Recorder) rolledOut(key string, t rollout) {
	list := append(r.templates[key], t)
	r.templates[key] = list[max(0, len(list)-maxRollouts):]
}

// notice looks at an object and what it was; nil when it is new here.
func (r *Recorder) notice(old, now any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch now := now.(type) {
	case *workload:
		before, _ := old.(*workload)
		r.noticeWorkload(before, now)
	case *config:
		if before, ok := old.(*config); ok && before.ResourceVersion != now.ResourceVersion {
			if e := now.changedFrom(before); e != nil {
				r.put(e)
			}
		}
	case *corev1.Pod:
		for _, e := range ends(now, r.cfg.Workload(now)) {
			r.put(e)
		}
	case *corev1.Event:
		if e := warning(now, r.workloadOf(now)); e != nil {
			r.put(e)
		}
	}
}

// workloadOf is what owns the object of a warning.
func (r *Recorder) workloadOf(w *corev1.Event) string {
	o := w.InvolvedObject
	switch o.Kind {
	case "Pod":
		found, ok, _ := r.cfg.Factory.Core().V1().Pods().Informer().GetStore().GetByKey(o.Namespace + "/" + o.Name)
		if pod, isPod := found.(*corev1.Pod); ok && isPod {
			return r.cfg.Workload(pod)
		}
	case "ReplicaSet":
		if i := strings.LastIndexByte(o.Name, '-'); i > 0 {
			return o.Name[:i]
		}
	case "Deployment", "StatefulSet", "DaemonSet", "Job", "CronJob":
		return o.Name
	}
	return ""
}

func (r *Recorder) noticeWorkload(before, now *workload) {
	if before == nil || before.template != now.template {
		changed := *now
		if changed.found = before == nil; !changed.found {
			changed.changed.at, changed.changed.by = recent(now.changed, time.Now())
		}
		r.put(&changed)
	}
	if before != nil && before.replicas != now.replicas {
		r.put(now.scaledFrom(before.replicas, time.Now()))
	}
}

// put records an event, or that a workload may have been rolled out, as soon as it is known what was before.
// Holds r.mu.
func (r *Recorder) put(o any) {
	e, ok := o.(*Event)
	if !ok {
		e = &Event{pending: o.(*workload)}
	}
	if !r.ready {
		r.early = append(r.early, e)
		return
	}
	r.write(e)
}

// write records an event unless it has been. Holds r.mu.
func (r *Recorder) write(e *Event) {
	if w := e.pending; w != nil {
		key := w.Namespace + "/" + w.kind + "/" + w.Name
		former := r.templates[key]
		var images map[string]string
		earlier := false
		if n := len(former); n > 0 {
			if last := former[n-1]; last.template == w.template || w.found && !w.changed.at.After(last.at) {
				return // the same, or written otherwise by a new version of the API
			}
			images = former[n-1].images
			for _, t := range former[:n-1] {
				earlier = earlier || t.template == w.template
			}
		}
		e = w.deployed(images, earlier)
		r.rolledOut(key, rollout{w.changed.at, w.template, w.images})
	}
	id := e.id()
	if _, known := r.seen[id]; known {
		return
	}
	if len(r.seen) > 2*maxRemembered { // the old half is not told again by any object
		cutoff := time.Now().Add(-time.Hour)
		maps.DeleteFunc(r.seen, func(_ uint64, at time.Time) bool { return at.Before(cutoff) })
	}
	r.seen[id] = e.Time
	// A line's time is when it was noticed: lines of a log come in order. The event has its own.
	if err := r.cfg.Write(e.Namespace, time.Now(), e.line()); err != nil {
		r.cfg.Log.Warn("cannot record a change", "err", err)
	}
}

// buildsRetry is how long it is waited for the kind Build, which may come later.
const buildsRetry = 30 * time.Second

// followBuilds records how builds end, until ctx ends.
func (r *Recorder) followBuilds(ctx context.Context) {
	for ctx.Err() == nil {
		_ = r.watchBuilds(ctx) // such as that the kind is not there
		select {
		case <-ctx.Done():
		case <-time.After(buildsRetry):
		}
	}
}

func (r *Recorder) watchBuilds(ctx context.Context) error {
	list, err := r.cfg.Builds.Builds("").List(ctx, listOptions(""))
	if err != nil {
		return err
	}
	for i := range list.Items {
		r.noticeBuild(&list.Items[i])
	}
	w, err := r.cfg.Builds.Builds("").Watch(ctx, listOptions(list.ResourceVersion))
	if err != nil {
		return err
	}
	defer w.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case e, ok := <-w.ResultChan():
			if !ok || e.Type == watch.Error {
				return errors.New("the watch has ended")
			}
			if b, isBuild := e.Object.(runtime.Object).(*v1alpha1.Build); isBuild && e.Type != watch.Deleted {
				r.noticeBuild(b)
			}
		}
	}
}

// parse reads an event out of a line of a log.
func parse(line string) (e Event, ok bool) {
	return e, json.Unmarshal([]byte(line), &e) == nil && e.Kind != ""
}

// Filter says which events are asked for.
type Filter struct {
	From, To  time.Time
	Namespace string // "" is all
	Workload  string // "" is all
	Kinds     []string
	Limit     int
	May       func(namespace string) bool
}

// SourceLabel and SourceValue mark the logs that are time lines.
const (
	SourceLabel = "source"
	SourceValue = "timeline"
)

// late is how much later than it happened a change may have been noticed.
const late = 24 * time.Hour

// maxLines is how many lines are looked at for one answer.
const maxLines = 20000

// read returns recorded events, the newest first.
func read(ctx context.Context, from search.Source, f Filter) ([]Event, error) {
	matchers := []*labels.Matcher{labels.MustNewMatcher(labels.MatchEqual, SourceLabel, SourceValue)}
	if f.Namespace != "" {
		matchers = append(matchers, labels.MustNewMatcher(labels.MatchEqual, "namespace", f.Namespace))
	}
	lines, err := search.Lines(ctx, from, &logql.Log{Matchers: matchers}, search.Options{
		From: f.From.UnixNano(), To: f.To.Add(late).UnixNano(), Limit: maxLines, May: f.May,
	})
	if err != nil {
		return nil, err
	}
	var events []Event
	for _, l := range lines {
		if e, ok := parse(l.Text); ok && f.fits(&e) {
			events = append(events, e)
		}
	}
	sortEvents(events)
	return events[:min(len(events), f.Limit)], nil
}
