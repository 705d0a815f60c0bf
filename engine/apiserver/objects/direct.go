package objects

import (
	"context"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
)

// Direct is a watch whose client takes objects as they are. Its events go from the storage to
// the client without passing the request's handler, which only waits for the end.
//
// All direct watches of a version share what an object points to; nobody may change it. It is
// not shared with the storage, so that a client that does cannot change what is stored.
type Direct struct {
	Version schema.GroupVersion
	Convert Converter
	// Send answers false when the watch is over.
	Send func(watch.Event) bool
}

// Converter makes of an object the same in another version. The result may share what the
// object points to.
type Converter interface {
	ConvertToVersion(in runtime.Object, version runtime.GroupVersioner) (runtime.Object, error)
}

type directKey struct{}

// WithDirect makes a watch that is asked for with the context a direct one.
func WithDirect(ctx context.Context, d *Direct) context.Context {
	return context.WithValue(ctx, directKey{}, d)
}

func directFrom(ctx context.Context) *Direct {
	d, _ := ctx.Value(directKey{}).(*Direct)
	return d
}

// of answers the form of an entry or event that this version's watches share.
func (d *Direct) of(form func(kind any, derive func(object any) (any, error)) (any, error)) (runtime.Object, error) {
	obj, err := form(d.Version, func(object any) (any, error) { return d.version(shallow(object.(runtime.Object))) })
	if err != nil {
		return nil, err
	}
	return obj.(runtime.Object), nil
}

// version makes of a stored object, whose top level is the caller's, one that clients may have.
func (d *Direct) version(obj runtime.Object) (runtime.Object, error) {
	out, err := d.Convert.ConvertToVersion(obj, d.Version)
	if err != nil {
		return nil, err
	}
	out = out.DeepCopyObject()                                         // conversion shares what it can
	out.GetObjectKind().SetGroupVersionKind(schema.GroupVersionKind{}) // as typed clients answer it
	return out, nil
}
