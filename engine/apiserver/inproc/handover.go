package inproc

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"reflect"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/watch"
	clientscheme "k8s.io/client-go/kubernetes/scheme"
)

// MediaType is the form in which objects pass between a handler and a client of the same
// process: not as bytes but as themselves. What travels through the reader and writer between
// them is a claim ticket.
const MediaType = "application/vnd.gantry.object"

// cloakroom is where objects wait for the other side. There is one, because a process has one
// memory and client-go one set of codecs.
var cloakroom = &tickets{held: map[uint64]any{}}

// unclaimed bounds how many objects wait at once. A client that asks for an object collects it
// microseconds later; one that never does costs the room of one object until then.
const unclaimed = 1 << 14

// tickets exchanges objects for numbers and back, once each.
type tickets struct {
	mu     sync.Mutex // guards following
	last   uint64
	oldest uint64
	held   map[uint64]any
}

func (t *tickets) leave(v any) uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.last++
	t.held[t.last] = v
	for len(t.held) > unclaimed {
		t.oldest++
		delete(t.held, t.oldest)
	}
	return t.last
}

func (t *tickets) collect(ticket uint64) (any, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	v, ok := t.held[ticket]
	delete(t.held, ticket)
	return v, ok
}

// teach adds MediaType to what the typed clients of client-go understand. They take their codecs
// from a variable of that package when they are made.
var teach = sync.OnceFunc(func() {
	clientscheme.Codecs = serializer.NewCodecFactory(clientscheme.Scheme, serializer.WithSerializer(SerializerInfo))
})

// SerializerInfo is MediaType for a codec factory.
func SerializerInfo(runtime.ObjectCreater, runtime.ObjectTyper) runtime.SerializerInfo {
	return runtime.SerializerInfo{
		MediaType:        MediaType,
		MediaTypeType:    "application",
		MediaTypeSubType: "vnd.gantry.object",
		Serializer:       handOver{},
		StrictSerializer: handOver{},
		StreamSerializer: &runtime.StreamSerializerInfo{Serializer: eventDecoder{}, Framer: eventFramer{}},
	}
}

// The first byte of an encoded object says what follows.
const (
	ticketMark = 't' // the number of a ticket, big-endian
	statusMark = 's' // a Status in protobuf: clients need not look at it, so no ticket may wait for them
)

// handOver is the runtime.Serializer of MediaType.
type handOver struct{}

// Encode leaves a copy of obj for whoever decodes what it writes.
func (handOver) Encode(obj runtime.Object, w io.Writer) error {
	if status, ok := obj.(*metav1.Status); ok {
		data, err := status.Marshal()
		if err == nil {
			_, err = w.Write(append([]byte{statusMark}, data...))
		}
		return err
	}
	return HandOver(obj.DeepCopyObject(), w)
}

// HandOver gives obj away to whoever decodes what it writes.
func HandOver(obj runtime.Object, w io.Writer) error {
	_, err := w.Write(binary.BigEndian.AppendUint64([]byte{ticketMark}, cloakroom.leave(obj)))
	return err
}

// Identifier implements runtime.Encoder.
func (handOver) Identifier() runtime.Identifier { return MediaType }

// Decode answers the object that was left. It belongs to the caller.
func (handOver) Decode(data []byte, _ *schema.GroupVersionKind, into runtime.Object) (runtime.Object, *schema.GroupVersionKind, error) {
	if len(data) > 0 && data[0] == statusMark {
		status, kind := &metav1.Status{}, metav1.SchemeGroupVersion.WithKind("Status")
		if err := status.Unmarshal(data[1:]); err != nil {
			return nil, nil, fmt.Errorf("decode status: %w", err)
		}
		return place(status, into), &kind, nil
	}
	v, err := redeem(data)
	if err != nil {
		return nil, nil, err
	}
	obj := v.(runtime.Object) // nothing else is left here
	kind := obj.GetObjectKind().GroupVersionKind()
	return place(obj, into), &kind, nil
}

// RecognizesData implements recognizer.RecognizingDecoder: no data is of this form by chance.
func (handOver) RecognizesData([]byte) (ok, unknown bool, err error) { return false, false, nil }

func redeem(data []byte) (any, error) {
	if len(data) != 9 || data[0] != ticketMark {
		return nil, errors.New("decode object of this process: the data is not a ticket for one")
	}
	v, ok := cloakroom.collect(binary.BigEndian.Uint64(data[1:]))
	if !ok {
		return nil, errors.New("decode object of this process: it was collected before, or waited too long")
	}
	return v, nil
}

// place puts obj where the caller wants it, if it fits there.
func place(obj, into runtime.Object) runtime.Object {
	if into == nil || reflect.TypeOf(obj) != reflect.TypeOf(into) {
		return obj
	}
	reflect.ValueOf(into).Elem().Set(reflect.ValueOf(obj).Elem())
	return into
}

// eventDecoder reads the frames of eventFramer.
type eventDecoder struct{ handOver }

// Encode implements runtime.Encoder. Events are sent with Send.
func (eventDecoder) Encode(runtime.Object, io.Writer) error {
	return errors.New("encode watch event: events of this process are handed over, not written")
}

// Decode fills a metav1.WatchEvent, whose object stays encoded.
func (eventDecoder) Decode(data []byte, _ *schema.GroupVersionKind, into runtime.Object) (runtime.Object, *schema.GroupVersionKind, error) {
	frame, ok := into.(*metav1.WatchEvent)
	if !ok {
		return nil, nil, fmt.Errorf("decode watch event: it does not fit into a %T", into)
	}
	v, err := redeem(data)
	if err != nil {
		return nil, nil, err
	}
	ev := v.(watch.Event) // nothing else is framed
	frame.Type = string(ev.Type)
	frame.Object.Raw = binary.BigEndian.AppendUint64([]byte{ticketMark}, cloakroom.leave(ev.Object))
	kind := metav1.SchemeGroupVersion.WithKind("WatchEvent")
	return into, &kind, nil
}

// eventFramer makes frames of what was sent with Send.
type eventFramer struct{}

// NewFrameWriter implements runtime.Framer. Nothing is written through it.
func (eventFramer) NewFrameWriter(w io.Writer) io.Writer { return w }

// NewFrameReader implements runtime.Framer. Each reading of a watch's body is a frame.
func (eventFramer) NewFrameReader(r io.ReadCloser) io.ReadCloser { return r }

// readTicket answers a ticket for the next event.
func (q *eventQueue) readTicket(p []byte) (int, error) {
	if len(p) < 9 {
		return 0, io.ErrShortBuffer
	}
	ev, err := q.next()
	if err != nil {
		return 0, err
	}
	return len(binary.BigEndian.AppendUint64(append(p[:0], ticketMark), cloakroom.leave(ev))), nil
}
