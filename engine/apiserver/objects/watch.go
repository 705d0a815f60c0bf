package objects

import (
	"context"
	"errors"
	"reflect"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/storage"
	utilflowcontrol "k8s.io/apiserver/pkg/util/flowcontrol"

	"github.com/gantryhq/gantry/engine/store"
)

// bookmarkPeriod is how often an idle watch that asked for bookmarks gets one.
const bookmarkPeriod = time.Minute

// stream is one watch. Its channel is closed when it ends, for whatever reason.
type stream struct {
	storage *Storage
	pred    storage.SelectionPredicate
	all     bool // the predicate selects everything
	out     chan watch.Event
	direct  *Direct // or nil
	ctx     context.Context
	cancel  context.CancelFunc
}

// ResultChan implements watch.Interface.
func (w *stream) ResultChan() <-chan watch.Event { return w.out }

// Stop implements watch.Interface.
func (w *stream) Stop() { w.cancel() }

// Watch implements storage.Interface.
func (s *Storage) Watch(ctx context.Context, key string, opts storage.ListOptions) (watch.Interface, error) {
	prefix, err := storage.PrepareKey(s.cfg.Prefix, key, opts.Recursive)
	if err != nil {
		return nil, err
	}
	since, err := s.versioner.ParseResourceVersion(opts.ResourceVersion)
	if err != nil {
		return nil, err
	}
	initial := opts.SendInitialEvents != nil && *opts.SendInitialEvents || opts.SendInitialEvents == nil && since == 0
	w := &stream{storage: s, pred: opts.Predicate, all: opts.Predicate.Empty(), out: make(chan watch.Event, 16), direct: directFrom(ctx)}
	w.ctx, w.cancel = context.WithCancel(ctx)

	var view *store.View
	var source *store.Watcher
	if initial {
		view, source, err = s.store.ViewAndWatch(prefix)
		if err == nil && since > view.Revision() {
			source.Stop()
			err = storage.NewTooLargeResourceVersionError(since, view.Revision(), 1)
		}
	} else {
		source, err = s.store.Watch(prefix, since)
	}
	utilflowcontrol.WatchInitialized(ctx)
	if err != nil {
		go w.fail(err)
		return w, nil
	}
	endOfInitial := opts.SendInitialEvents != nil && *opts.SendInitialEvents && opts.Predicate.AllowWatchBookmarks
	go w.run(prefix, view, source, endOfInitial)
	return w, nil
}

// fail ends the watch with an error event: once a watch is accepted, that is how clients learn.
func (w *stream) fail(err error) {
	defer close(w.out)
	defer w.cancel()
	if errors.Is(err, store.ErrCompacted) {
		err = apierrors.NewResourceExpired("The resourceVersion for the provided watch is too old.")
	}
	var status apierrors.APIStatus
	if !errors.As(err, &status) {
		status = apierrors.NewInternalError(err)
	}
	st := status.Status()
	w.send(watch.Event{Type: watch.Error, Object: &st})
}

// send passes an event on, whose object is in the form that the watch wants.
func (w *stream) send(ev watch.Event) bool {
	if w.direct != nil {
		return w.direct.Send(ev)
	}
	select {
	case w.out <- ev:
		return true
	case <-w.ctx.Done():
		return false
	}
}

func (w *stream) run(prefix string, view *store.View, source *store.Watcher, endOfInitial bool) {
	defer close(w.out)
	defer w.cancel()
	defer source.Stop()
	if view != nil && !w.sendPresent(view, prefix) {
		return
	}
	if endOfInitial && !w.bookmark(view.Revision(), true) {
		return
	}
	view = nil // a view pins everything overwritten since
	var ticks <-chan time.Time
	if w.pred.AllowWatchBookmarks {
		ticker := time.NewTicker(bookmarkPeriod)
		defer ticker.Stop()
		ticks = ticker.C
	}
	for {
		due := false
		select {
		case <-source.Ready():
		case <-ticks:
			due = true
		case <-w.ctx.Done():
			return
		}
		events, progress, err := source.Take()
		if err != nil {
			return // the client lists again, as when a connection breaks
		}
		for _, ev := range events {
			if !w.pass(ev) {
				return
			}
		}
		if due && !w.bookmark(progress, false) {
			return
		}
	}
}

func (w *stream) sendPresent(view *store.View, prefix string) bool {
	ok := true
	view.Ascend(prefix, "", func(e *store.Entry) bool {
		obj, err := w.storage.shared(e)
		if err != nil {
			ok = w.send(corrupt(e.Key, err))
			return ok
		}
		if !w.matches(obj) {
			return true
		}
		if w.direct != nil {
			if obj, err = w.direct.of(e.Form); err != nil {
				ok = w.send(corrupt(e.Key, err))
				return ok
			}
		}
		ok = w.send(watch.Event{Type: watch.Added, Object: shallow(obj)})
		return ok
	})
	return ok
}

func (w *stream) matches(obj runtime.Object) bool {
	if w.all {
		return true
	}
	ok, err := w.pred.Matches(obj)
	return err == nil && ok
}

// pass translates one change for this watch's selector and sends it.
func (w *stream) pass(ev *store.Event) bool {
	out, ok, err := w.translate(ev)
	if ok && err == nil && w.direct != nil {
		out.Object, err = w.inVersion(ev, out)
	}
	if err != nil {
		return w.send(corrupt(ev.Key, err))
	}
	return !ok || w.send(out)
}

// inVersion answers the object of an event in the version that a direct watch wants.
func (w *stream) inVersion(ev *store.Event, out watch.Event) (runtime.Object, error) {
	if out.Type == watch.Deleted && ev.Entry != nil { // it only ceased to match
		return w.direct.version(out.Object)
	}
	obj, err := w.direct.of(ev.Form)
	if err != nil {
		return nil, err
	}
	return shallow(obj), nil
}

// translate answers what a change means to this watch: an object that starts to match is added,
// one that ceases to match is deleted, whatever happened to it.
func (w *stream) translate(ev *store.Event) (watch.Event, bool, error) {
	s := w.storage
	matchedBefore := false
	if ev.Prev != nil {
		if matchedBefore = w.all; !matchedBefore {
			prev, err := s.shared(ev.Prev)
			if err != nil {
				return watch.Event{}, false, err
			}
			matchedBefore = w.matches(prev)
		}
	}
	if ev.Entry != nil {
		obj, err := s.shared(ev.Entry)
		if err != nil {
			return watch.Event{}, false, err
		}
		if w.matches(obj) {
			kind := watch.Added
			if matchedBefore {
				kind = watch.Modified
			}
			return watch.Event{Type: kind, Object: shallow(obj)}, true, nil
		}
	}
	if !matchedBefore {
		return watch.Event{}, false, nil
	}
	gone, err := s.deleted(ev)
	return watch.Event{Type: watch.Deleted, Object: gone}, true, err
}

// deleted returns an object's last matching state at the revision at which it went.
func (s *Storage) deleted(ev *store.Event) (runtime.Object, error) {
	if ev.Entry == nil && !s.private {
		obj, err := ev.Object()
		if err != nil {
			return nil, err
		}
		return shallow(obj.(runtime.Object)), nil
	}
	return s.decode(ev.Prev.Data, ev.Revision)
}

func (w *stream) bookmark(revision uint64, endOfInitial bool) bool {
	obj := w.storage.cfg.NewFunc()
	if err := w.storage.versioner.UpdateObject(obj, revision); err != nil {
		return true
	}
	if endOfInitial {
		if err := storage.AnnotateInitialEventsEndBookmark(obj); err != nil {
			return true
		}
	}
	if w.direct != nil {
		var err error
		if obj, err = w.direct.version(obj); err != nil {
			return w.send(corrupt("bookmark", err))
		}
	}
	return w.send(watch.Event{Type: watch.Bookmark, Object: obj})
}

func corrupt(key string, err error) watch.Event {
	st := apierrors.NewInternalError(storage.NewCorruptObjError(key, err)).Status()
	return watch.Event{Type: watch.Error, Object: &st}
}

// shallow copies the top level of a shared object, so that the registry's decorators can set
// fields of it.
func shallow(obj runtime.Object) runtime.Object {
	if _, ok := obj.(runtime.Unstructured); ok {
		return obj // custom resources are decoded for each reader
	}
	v := reflect.ValueOf(obj).Elem()
	c := reflect.New(v.Type())
	c.Elem().Set(v)
	return c.Interface().(runtime.Object)
}
