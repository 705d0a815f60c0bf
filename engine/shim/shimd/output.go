package shimd

import (
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// readBuffers are shared by all streams: an idle stream holds none.
var readBuffers = sync.Pool{New: func() any { b := make([]byte, 32<<10); return &b }}

// readReady waits until f is readable, then calls use with what it had. It
// returns io.EOF at the end.
func readReady(f *os.File, use func([]byte)) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var n int
	var readErr error
	var buffer *[]byte
	err = raw.Read(func(fd uintptr) bool {
		buffer = readBuffers.Get().(*[]byte)
		for {
			n, readErr = unix.Read(int(fd), *buffer)
			if readErr != unix.EINTR {
				break
			}
		}
		if readErr == unix.EAGAIN {
			readBuffers.Put(buffer)
			buffer = nil
			return false
		}
		return true
	})
	if buffer != nil {
		defer readBuffers.Put(buffer)
	}
	switch {
	case err != nil:
		return err
	case readErr != nil:
		return readErr // EIO: the last user of a terminal has gone
	case n <= 0:
		return io.EOF
	}
	use((*buffer)[:n])
	return nil
}

// follow copies one output stream to the log and to attached clients until its
// end. The caller keeps c.mu.
func (c *container) follow(f *os.File, stream string) {
	c.readers = append(c.readers, f)
	c.outputs.Add(1)
	go func() {
		defer c.outputs.Done()
		for {
			err := readReady(f, func(b []byte) {
				c.log.write(stream, b)
				c.distribute(stream, b)
			})
			if err != nil {
				break
			}
		}
		c.log.end(stream)
		c.endStream(stream)
	}()
}

// sink is one attached client.
type sink struct {
	stdout, stderr *os.File // or nil
	queue          chan chunk
	once           sync.Once
	gone           chan struct{} // closed when it was detached or everything was delivered
}

type chunk struct {
	stream string
	data   []byte // nil ends the stream
}

// sinkQueue bounds what a slow client may lag behind, in reads of at most 32 KiB.
const sinkQueue = 64

func newSink(stdout, stderr *os.File) *sink {
	s := &sink{stdout: stdout, stderr: stderr, queue: make(chan chunk, sinkQueue), gone: make(chan struct{})}
	go s.deliver()
	return s
}

func (s *sink) file(stream string) *os.File {
	if stream == stderrFIFO {
		return s.stderr
	}
	return s.stdout
}

func (s *sink) deliver() {
	open := 0
	for _, f := range []*os.File{s.stdout, s.stderr} {
		if f != nil {
			open++
		}
	}
	for open > 0 {
		select {
		case <-s.gone:
			return
		case k := <-s.queue:
			f := s.file(k.stream)
			if f == nil {
				continue
			}
			if k.data == nil {
				f.Close()
				open--
			} else if _, err := f.Write(k.data); err != nil {
				s.close()
			}
		}
	}
	s.close()
}

// close detaches the client, also in the middle of a write.
func (s *sink) close() {
	s.once.Do(func() {
		close(s.gone)
		for _, f := range []*os.File{s.stdout, s.stderr} {
			if f != nil {
				f.Close()
			}
		}
	})
}

// distribute hands output to the attached clients. One that lags too far behind
// is detached: it may not stop the container.
func (c *container) distribute(stream string, b []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.sinks) == 0 {
		c.keepEarly(stream, b)
		return
	}
	data := append([]byte(nil), b...)
	for s := range c.sinks {
		select {
		case s.queue <- chunk{stream, data}:
		default:
			delete(c.sinks, s)
			s.close()
		}
	}
}

// A client that starts a container with a terminal and attaches to it would miss the
// first prompt. So of a container that takes input the first output is kept for a
// moment, until somebody attaches.
const (
	earlyTime  = 10 * time.Second // after the start
	earlyBytes = 16 << 10
)

// keepEarly remembers output that no client has seen. Holds c.mu.
func (c *container) keepEarly(stream string, b []byte) {
	if !c.record.Stdin && !c.record.Terminal {
		return
	}
	if time.Since(c.record.StartedAt) > earlyTime || len(b) > earlyBytes {
		c.early = nil
		return
	}
	size := len(b)
	for _, k := range c.early {
		size += len(k.data)
	}
	for size > earlyBytes || len(c.early) >= sinkQueue/2 {
		size -= len(c.early[0].data)
		c.early = c.early[1:]
	}
	c.early = append(c.early, chunk{stream, append([]byte(nil), b...)})
}

// takeEarly is what the first client gets first. Holds c.mu.
func (c *container) takeEarly() []chunk {
	early := c.early
	c.early = nil
	if time.Since(c.record.StartedAt) > earlyTime {
		return nil
	}
	return early
}

// endStream tells the attached clients that a stream is at its end.
func (c *container) endStream(stream string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ended = append(c.ended, stream)
	for s := range c.sinks {
		select {
		case s.queue <- chunk{stream: stream}:
		default:
			delete(c.sinks, s)
			s.close()
		}
	}
}
