package inproc

import (
	"context"
	"io"
	"net/http"
	"sync"
)

// streamLimit bounds what a handler may write ahead of its reader, in bytes.
const streamLimit = 256 << 10

// streamWriter is the http.ResponseWriter of a long-running request.
type streamWriter struct {
	header  http.Header
	sent    http.Header
	code    int
	failure error
	started chan struct{} // closed once code and sent, or failure, are set
	once    sync.Once
	ctx     context.Context
	pipe    *pipe
	events  *eventQueue // used instead of pipe when events are handed over
	release func() bool // stops watching the request's context
}

func newStreamWriter(ctx context.Context) *streamWriter {
	w := &streamWriter{header: http.Header{}, started: make(chan struct{}), pipe: newPipe(), events: newEventQueue()}
	w.ctx = context.WithValue(ctx, eventsKey{}, w.events)
	w.release = context.AfterFunc(ctx, func() {
		w.pipe.abort(ctx.Err())
		w.events.abort(ctx.Err())
	})
	return w
}

func (w *streamWriter) Header() http.Header { return w.header }

func (w *streamWriter) WriteHeader(code int) {
	if code < 200 {
		return
	}
	w.once.Do(func() {
		w.code, w.sent = code, w.header.Clone()
		close(w.started)
	})
}

func (w *streamWriter) Write(p []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	return w.pipe.write(p)
}

// Flush implements http.Flusher. Writes are visible to the reader at once.
func (w *streamWriter) Flush() { w.WriteHeader(http.StatusOK) }

// CloseNotify implements http.CloseNotifier, without which upstream's filters hide Flush.
func (w *streamWriter) CloseNotify() <-chan bool { return closeNotify(w.ctx) }

// finish ends the stream: with err when the handler died, else cleanly.
func (w *streamWriter) finish(err error) {
	w.release()
	if err != nil {
		w.once.Do(func() {
			w.failure = err
			close(w.started)
		})
	} else {
		w.WriteHeader(http.StatusOK)
		err = io.EOF
	}
	w.pipe.closeWrite(err)
	w.events.close(err)
}

// streamBody is the reader's side; closing it ends the handler's context.
type streamBody struct {
	pipe   *pipe
	events *eventQueue // or nil when the answer is in bytes
	cancel context.CancelFunc
}

func (b *streamBody) Read(p []byte) (int, error) {
	if b.events != nil {
		return b.events.readTicket(p)
	}
	return b.pipe.read(p)
}

func (b *streamBody) Close() error {
	b.pipe.abort(http.ErrBodyReadAfterClose)
	if b.events != nil {
		b.events.abort(http.ErrBodyReadAfterClose)
	}
	b.cancel()
	return nil
}

// pipe is a bounded byte queue. Unlike io.Pipe a write does not wait for its reader, so that a
// watch event costs one hand-over and not two.
type pipe struct {
	mu      sync.Mutex
	cond    sync.Cond
	buf     []byte // guarded by mu
	off     int    // guarded by mu; start of the unread part of buf
	end     error  // guarded by mu; set when the writer is done
	aborted error  // guarded by mu; set when the request is over, whoever ended it
}

func newPipe() *pipe {
	p := &pipe{}
	p.cond.L = &p.mu
	return p
}

func (p *pipe) write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(p.buf)-p.off >= streamLimit && p.aborted == nil {
		p.cond.Wait()
	}
	if p.aborted != nil {
		return 0, p.aborted
	}
	if p.off >= streamLimit { // a reader that lags but never stops must not grow the buffer
		p.buf = p.buf[:copy(p.buf, p.buf[p.off:])]
		p.off = 0
	}
	p.buf = append(p.buf, b...)
	p.cond.Broadcast()
	return len(b), nil
}

func (p *pipe) read(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.off == len(p.buf) && p.end == nil && p.aborted == nil {
		p.cond.Wait()
	}
	if p.off == len(p.buf) {
		if p.end != nil {
			return 0, p.end
		}
		return 0, p.aborted
	}
	n := copy(b, p.buf[p.off:])
	p.off += n
	if p.off == len(p.buf) {
		p.off = 0
		if cap(p.buf) > streamLimit/4 {
			p.buf = nil // a burst is over, give the memory back
		} else {
			p.buf = p.buf[:0]
		}
	}
	p.cond.Broadcast()
	return n, nil
}

// closeWrite ends the stream for the reader once it has read what is there.
func (p *pipe) closeWrite(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.end = err
	p.cond.Broadcast()
}

// abort ends both sides at once and drops what is unread.
func (p *pipe) abort(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.aborted == nil {
		p.aborted = err
		p.buf, p.off = nil, 0
	}
	p.cond.Broadcast()
}
