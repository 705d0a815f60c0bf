package dockerapi

import (
	"context"
	"errors"
	"io"

	"github.com/moby/term"

	"github.com/gantryhq/gantry/engine/node/runtime"
)

// detachKeys reads the keys that leave a terminal: those that a client names, or ctrl-p
// ctrl-q.
func detachKeys(text string) ([]byte, error) {
	if text == "" {
		return []byte{16, 17}, nil
	}
	keys, err := term.ToBytes(text)
	if err != nil {
		return nil, invalid("invalid escape keys (%s) provided", text)
	}
	return keys, nil
}

// detacher reads what somebody types and leaves when the keys for it come.
type detacher struct {
	typed io.Reader
	leave func()
	left  <-chan struct{} // closed when nobody reads any more
}

// detachable is streams that their user can leave by typing keys, for a terminal's are. End
// must be called when they have been served.
func detachable(ctx context.Context, s *runtime.Streams, keys []byte) (served context.Context, end func()) {
	served, cancel := context.WithCancel(ctx)
	if s.Stdin == nil || !s.TTY {
		return served, cancel
	}
	left := make(chan struct{})
	s.Stdin = &detacher{term.NewEscapeProxy(s.Stdin, keys), cancel, left}
	return served, func() { cancel(); close(left) }
}

func (d *detacher) Read(p []byte) (int, error) {
	n, err := d.typed.Read(p)
	if errors.As(err, &term.EscapeError{}) {
		d.leave()
		<-d.left // an end of the input would be passed on before
		return 0, io.EOF
	}
	return n, err
}
