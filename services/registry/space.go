package registry

import (
	"fmt"
	"io"
	"net/http"

	"golang.org/x/sys/unix"
)

// watched is an upload of unknown length. It may use half of the reserve, so that
// what was let in has a chance to finish, and then ends with an error.
type watched struct {
	io.ReadCloser
	room   func() error
	unseen int // bytes read since the last look
}

// lookEvery bounds what is written between two looks at the disk.
const lookEvery = 1 << 20

func (w *watched) Read(p []byte) (int, error) {
	if w.unseen >= lookEvery {
		if err := w.room(); err != nil {
			return 0, err
		}
		w.unseen = 0
	}
	n, err := w.ReadCloser.Read(p)
	w.unseen += n
	return n, err
}

func (r *Registry) serveHealth(w http.ResponseWriter) {
	if err := r.room(r.minFree); err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	_, _ = w.Write([]byte("ok\n")) // a client that is gone needs no answer
}

// room is nil when that many bytes of disk are free.
func (r *Registry) room(need int64) error {
	var st unix.Statfs_t
	if err := unix.Statfs(r.dir, &st); err != nil {
		return fmt.Errorf("registry storage %s: %w", r.dir, err)
	}
	if free := int64(st.Bavail) * st.Bsize; free < need {
		return &refusal{status: http.StatusInsufficientStorage, code: "DENIED", message: fmt.Sprintf("registry storage %s has only %d MiB left: free disk space or delete images, then push again", r.dir, free>>20)}
	}
	return nil
}
