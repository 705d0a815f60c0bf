// Package objects is upstream's storage.Interface over engine/store: what etcd and its watch
// cache are to a kube-apiserver.
//
// It guarantees the semantics that k8s.io/apiserver documents for storage.Interface: optimistic
// concurrency by resource version, a no-op update that writes nothing, lists at one consistent
// version with continuation, watches that resume from a version or start with the present state,
// and bookmarks. Reads never leave memory. Every object in memory is what decoding its stored
// bytes gives, so a restart changes nothing that a client can see.
//
// Objects handed out by Watch and inside lists share their maps, slices and pointers with the
// store and with every other reader: replacing their top-level fields is allowed, changing what
// those point to is not (the same rule as for upstream's watch cache). Imported by
// engine/apiserver only.
package objects

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"reflect"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/conversion"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/storage"

	"github.com/gantryhq/gantry/engine/store"
)

// Config describes the objects of one resource.
type Config struct {
	Resource schema.GroupResource
	// Prefix is the first part of the keys: a slash and the resource's name.
	Prefix string
	// Codec encodes to the storage version and decodes to the in-memory one.
	Codec       runtime.Codec
	NewFunc     func() runtime.Object
	NewListFunc func() runtime.Object
	// Transient objects are written far more often than anyone reads them: the answer to a
	// creation is not decoded from what was stored.
	Transient bool
	// Relaxed tells which writes need not wait for the disk; nil means none. The object is
	// what is written, nil for a deletion.
	Relaxed func(context.Context, runtime.Object) bool
}

// Storage implements storage.Interface for one resource.
type Storage struct {
	store     *store.Store
	versioner storage.Versioner
	cfg       Config
	// private is set for custom resources: every served version of a resource decodes the same
	// bytes to its own form, so nothing decoded can be shared through the store.
	private bool
}

var _ storage.Interface = (*Storage)(nil)

// New returns the storage of one resource and tells the store how to decode it.
func New(s *store.Store, cfg Config) *Storage {
	st := &Storage{store: s, versioner: storage.APIObjectVersioner{}, cfg: cfg}
	if _, ok := cfg.NewFunc().(runtime.Unstructured); ok {
		st.private = true
		return st
	}
	s.SetCodec(cfg.Prefix+"/", store.Codec{
		Decode: func(key string, data []byte, revision uint64) (any, error) {
			return st.decode(data, revision)
		},
	})
	return st
}

// Versioner implements storage.Interface.
func (s *Storage) Versioner() storage.Versioner { return s.versioner }

// decode makes a fresh object of stored bytes.
func (s *Storage) decode(data []byte, revision uint64) (runtime.Object, error) {
	obj, _, err := s.cfg.Codec.Decode(data, nil, s.cfg.NewFunc())
	if err != nil {
		return nil, err
	}
	if err := s.versioner.UpdateObject(obj, revision); err != nil {
		return nil, err
	}
	return obj, nil
}

// shared returns the object of an entry. It must not be changed.
func (s *Storage) shared(e *store.Entry) (runtime.Object, error) {
	if s.private {
		return s.decode(e.Data, e.ModRevision)
	}
	obj, err := e.Object()
	if err != nil {
		return nil, err
	}
	return obj.(runtime.Object), nil
}

// owned returns a copy of an entry's object that the caller may change.
func (s *Storage) owned(e *store.Entry) (runtime.Object, error) {
	obj, err := s.shared(e)
	if err != nil || s.private {
		return obj, err
	}
	return obj.DeepCopyObject(), nil
}

// assign sets *out to *obj.
func assign(out, obj runtime.Object) error {
	v, err := conversion.EnforcePtr(out)
	if err != nil {
		return fmt.Errorf("convert output object to pointer: %w", err)
	}
	src := reflect.ValueOf(obj).Elem()
	if v.Type() != src.Type() {
		return fmt.Errorf("stored object is a %T, the caller expects a %T", obj, out)
	}
	v.Set(src)
	return nil
}

// Get implements storage.Interface.
func (s *Storage) Get(_ context.Context, key string, opts storage.GetOptions, out runtime.Object) error {
	key, err := storage.PrepareKey(s.cfg.Prefix, key, false)
	if err != nil {
		return err
	}
	e, revision := s.store.Get(key)
	if err := s.atLeast(opts.ResourceVersion, revision); err != nil {
		return err
	}
	if e == nil {
		if opts.IgnoreNotFound {
			return runtime.SetZeroValue(out)
		}
		return storage.NewKeyNotFoundError(key, 0)
	}
	obj, err := s.owned(e)
	if err != nil {
		return storage.NewCorruptObjError(key, err)
	}
	return assign(out, obj)
}

// Create implements storage.Interface.
func (s *Storage) Create(ctx context.Context, key string, obj, out runtime.Object, ttl uint64) error {
	key, err := storage.PrepareKey(s.cfg.Prefix, key, false)
	if err != nil {
		return err
	}
	if version, err := s.versioner.ObjectResourceVersion(obj); err == nil && version != 0 {
		return storage.ErrResourceVersionSetOnCreate
	}
	if err := s.versioner.PrepareObjectForStorage(obj); err != nil {
		return fmt.Errorf("prepare %s for storage: %w", key, err)
	}
	data, err := runtime.Encode(s.cfg.Codec, obj)
	if err != nil {
		return err
	}
	e, err := s.store.Update(ctx, key, store.Absent, s.value(ctx, obj, data, ttl))
	if errors.Is(err, store.ErrConflict) {
		return storage.NewKeyExistsError(key, 0)
	}
	if err != nil {
		return s.writeError(err)
	}
	if s.cfg.Transient {
		return s.answerWritten(e, obj, out)
	}
	return s.answer(key, e, out)
}

// answerWritten sets out to the object that was encoded, as decoding it would.
func (s *Storage) answerWritten(e *store.Entry, obj, out runtime.Object) error {
	if err := s.versioner.UpdateObject(obj, e.ModRevision); err != nil {
		return err
	}
	if o, err := meta.Accessor(obj); err == nil { // the registry's clock is finer than what is stored
		created := o.GetCreationTimestamp()
		o.SetCreationTimestamp(created.Rfc3339Copy())
	}
	return assign(out, obj)
}

func (s *Storage) value(ctx context.Context, obj runtime.Object, data []byte, ttl uint64) store.Value {
	return store.Value{
		Data:    data,
		TTL:     time.Duration(ttl) * time.Second,
		Relaxed: s.relaxed(ctx, obj),
	}
}

func (s *Storage) relaxed(ctx context.Context, obj runtime.Object) bool {
	return s.cfg.Relaxed != nil && s.cfg.Relaxed(ctx, obj)
}

// answer sets out, unless it is nil, to what was just stored.
func (s *Storage) answer(key string, e *store.Entry, out runtime.Object) error {
	if out == nil {
		return nil
	}
	obj, err := s.shared(e)
	if err != nil {
		return storage.NewCorruptObjError(key, err)
	}
	return assign(out, obj)
}

// Delete implements storage.Interface.
func (s *Storage) Delete(ctx context.Context, key string, out runtime.Object, preconditions *storage.Preconditions,
	validate storage.ValidateObjectFunc, _ runtime.Object, _ storage.DeleteOptions) error {
	key, err := storage.PrepareKey(s.cfg.Prefix, key, false)
	if err != nil {
		return err
	}
	for {
		e, _ := s.store.Get(key)
		if e == nil {
			return storage.NewKeyNotFoundError(key, 0)
		}
		obj, err := s.owned(e)
		if err != nil {
			return storage.NewCorruptObjError(key, err)
		}
		if err := preconditions.Check(key, obj); err != nil {
			return err
		}
		if err := validate(ctx, obj); err != nil {
			return err
		}
		_, revision, err := s.store.Delete(ctx, key, e.ModRevision, store.DeleteOptions{Relaxed: s.relaxed(ctx, nil)})
		if errors.Is(err, store.ErrConflict) {
			continue
		}
		if err != nil {
			return s.writeError(err)
		}
		if err := s.versioner.UpdateObject(obj, revision); err != nil {
			return err
		}
		return assign(out, obj)
	}
}

// GuaranteedUpdate implements storage.Interface.
func (s *Storage) GuaranteedUpdate(ctx context.Context, key string, out runtime.Object, ignoreNotFound bool,
	preconditions *storage.Preconditions, tryUpdate storage.UpdateFunc, _ runtime.Object) error {
	key, err := storage.PrepareKey(s.cfg.Prefix, key, false)
	if err != nil {
		return err
	}
	for {
		e, _ := s.store.Get(key)
		next, done, err := s.update(ctx, key, e, ignoreNotFound, preconditions, tryUpdate)
		if errors.Is(err, store.ErrConflict) {
			continue
		}
		if err != nil {
			return err
		}
		if !done {
			next = e
		}
		return s.answer(key, next, out)
	}
}

// update tries one update of current, which is nil when there is no object. It answers the new
// entry, and false when the update changed nothing.
func (s *Storage) update(ctx context.Context, key string, current *store.Entry, ignoreNotFound bool,
	preconditions *storage.Preconditions, tryUpdate storage.UpdateFunc) (*store.Entry, bool, error) {
	existing, revision := s.cfg.NewFunc(), uint64(store.Absent)
	if current != nil {
		var err error
		if existing, err = s.owned(current); err != nil {
			return nil, false, storage.NewCorruptObjError(key, err)
		}
		revision = current.ModRevision
	} else if !ignoreNotFound {
		return nil, false, storage.NewKeyNotFoundError(key, 0)
	}
	if err := preconditions.Check(key, existing); err != nil {
		return nil, false, err
	}
	var responseMeta storage.ResponseMeta
	if current != nil {
		responseMeta.ResourceVersion = revision
		if !current.Expires.IsZero() {
			responseMeta.TTL = int64(time.Until(current.Expires).Seconds())
		}
	}
	restore := func(runtime.Object) {}
	if untracked(ctx) {
		restore = hideManagedFields(existing)
	}
	updated, ttl, err := tryUpdate(existing, responseMeta)
	if err != nil {
		return nil, false, err
	}
	restore(updated)
	if err := s.versioner.PrepareObjectForStorage(updated); err != nil {
		return nil, false, fmt.Errorf("prepare %s for storage: %w", key, err)
	}
	data, err := runtime.Encode(s.cfg.Codec, updated)
	if err != nil {
		return nil, false, err
	}
	if current != nil && bytes.Equal(data, current.Data) {
		return nil, false, nil
	}
	var seconds uint64
	if ttl != nil {
		seconds = *ttl
	}
	next, err := s.store.Update(ctx, key, revision, s.value(ctx, updated, data, seconds))
	if err != nil {
		return nil, false, s.writeError(err)
	}
	return next, true, nil
}

type untrackedKey struct{}

// Untracked marks a write that leaves the record of who owns which field as it is. The caller's
// object need not carry the record.
func Untracked(ctx context.Context) context.Context {
	return context.WithValue(ctx, untrackedKey{}, true)
}

func untracked(ctx context.Context) bool { return ctx.Value(untrackedKey{}) != nil }

// hideManagedFields takes the record off an object and answers how to put it on another.
func hideManagedFields(obj runtime.Object) func(runtime.Object) {
	o, err := meta.Accessor(obj)
	if err != nil {
		return func(runtime.Object) {}
	}
	record := o.GetManagedFields()
	o.SetManagedFields(nil)
	return func(obj runtime.Object) {
		if o, err := meta.Accessor(obj); err == nil {
			o.SetManagedFields(record)
		}
	}
}

// writeError turns the store's refusals into what API clients understand.
func (s *Storage) writeError(err error) error {
	var full *store.NoSpaceError
	switch {
	case errors.As(err, &full):
		return apierrors.NewInternalError(full)
	case errors.Is(err, store.ErrClosed):
		return apierrors.NewServiceUnavailable("the server is shutting down")
	default:
		return err
	}
}

// atLeast refuses a read that must be newer than the store is.
func (s *Storage) atLeast(resourceVersion string, revision uint64) error {
	if resourceVersion == "" {
		return nil
	}
	minimum, err := s.versioner.ParseResourceVersion(resourceVersion)
	if err != nil {
		return apierrors.NewBadRequest(fmt.Sprintf("invalid resource version: %v", err))
	}
	if minimum > revision {
		return storage.NewTooLargeResourceVersionError(minimum, revision, 1)
	}
	return nil
}

// Stats implements storage.Interface.
func (s *Storage) Stats(context.Context) (storage.Stats, error) {
	st := s.store.Stats(s.cfg.Prefix + "/")
	out := storage.Stats{ObjectCount: st.Keys}
	if st.Keys > 0 {
		out.EstimatedAverageObjectSizeBytes = st.Bytes / st.Keys
	}
	return out, nil
}

// ReadinessCheck implements storage.Interface.
func (s *Storage) ReadinessCheck() error { return nil }

// RequestWatchProgress implements storage.Interface. Watches are never behind by more than what
// they have queued, so there is nothing to request.
func (s *Storage) RequestWatchProgress(context.Context) error { return nil }

// GetCurrentResourceVersion implements storage.Interface.
func (s *Storage) GetCurrentResourceVersion(context.Context) (uint64, error) {
	return s.store.Revision(), nil
}

// EnableResourceSizeEstimation implements storage.Interface.
func (s *Storage) EnableResourceSizeEstimation(storage.KeysFunc) error { return nil }

// CompactRevision implements storage.Interface.
func (s *Storage) CompactRevision() int64 { return int64(s.store.CompactRevision()) }

// GetList implements storage.Interface.
func (s *Storage) GetList(ctx context.Context, key string, opts storage.ListOptions, list runtime.Object) error {
	prefix, err := storage.PrepareKey(s.cfg.Prefix, key, opts.Recursive)
	if err != nil {
		return err
	}
	at, start, err := storage.ValidateListOptions(prefix, s.versioner, opts)
	if err != nil {
		return err
	}
	view, err := s.store.View(uint64(max(at, 0)))
	if err != nil {
		return s.listError(err, uint64(at), opts, start, prefix)
	}
	if err := s.atLeast(opts.ResourceVersion, view.Revision()); err != nil {
		return err
	}
	items, err := meta.GetItemsPtr(list)
	if err != nil {
		return err
	}
	v, err := conversion.EnforcePtr(items)
	if err != nil || v.Kind() != reflect.Slice {
		return fmt.Errorf("list %s: items are not a slice: %w", prefix, err)
	}
	page, err := s.fill(ctx, view, prefix, start, opts.Predicate, v)
	if err != nil {
		return err
	}
	token, remaining, err := storage.PrepareContinueToken(page.last, prefix, int64(view.Revision()),
		opts.Predicate.Limit+page.more, page.more > 0, opts)
	if err != nil {
		return err
	}
	return s.versioner.UpdateList(list, view.Revision(), token, remaining)
}

type page struct {
	last string // key of the last entry looked at
	more int64  // entries after it; when a selector is given only whether there are any
}

// fill appends to the slice v what matches, up to the predicate's limit.
func (s *Storage) fill(ctx context.Context, view *store.View, prefix, start string, pred storage.SelectionPredicate, v reflect.Value) (page, error) {
	var p page
	var failure error
	everything := pred.Empty()
	if v.IsNil() {
		v.Set(reflect.MakeSlice(v.Type(), 0, 0))
	}
	view.Ascend(prefix, start, func(e *store.Entry) bool {
		if pred.Limit > 0 && int64(v.Len()) >= pred.Limit {
			p.more++
			return everything
		}
		p.last = e.Key
		obj, err := s.shared(e)
		if err != nil {
			failure = storage.NewCorruptObjError(e.Key, err)
			return false
		}
		if !everything {
			matched, err := pred.Matches(obj)
			if err != nil || !matched {
				return ctx.Err() == nil
			}
		}
		v.Set(reflect.Append(v, reflect.ValueOf(obj).Elem()))
		return ctx.Err() == nil
	})
	if failure == nil && ctx.Err() != nil {
		failure = storage.NewTimeoutError(p.last, "request did not complete within requested timeout")
	}
	return p, failure
}

// listError explains why a list at an exact version is impossible, as upstream does.
func (s *Storage) listError(err error, at uint64, opts storage.ListOptions, start, prefix string) error {
	switch {
	case errors.Is(err, store.ErrFutureRevision):
		return storage.NewTooLargeResourceVersionError(at, s.store.Revision(), 1)
	case !errors.Is(err, store.ErrCompacted):
		return s.writeError(err)
	case opts.Predicate.Continue == "":
		return apierrors.NewResourceExpired("The resourceVersion for the provided list is too old.")
	}
	expired := apierrors.NewResourceExpired("The provided continue parameter is too old to display a consistent list result. " +
		"Start a new list without it, or use the continue token of this response to get the rest without consistency.")
	if token, err := storage.EncodeContinue(start, prefix, -1); err == nil {
		expired.ErrStatus.ListMeta.Continue = token
	}
	return expired
}
