package logs

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/gantryhq/gantry/services/logs/crilog"
)

// spool writes log files of its own in the layout of a kubelet, for what nobody else writes files of.
// They are read like all others; what is archived is removed. Safe for concurrent use.
type spool struct {
	dir string

	mu    sync.Mutex
	files map[string]*spoolFile // by directory
}

type spoolFile struct {
	file *os.File
	size int64
}

// spoolBytes is how big a file becomes before another one is begun.
const spoolBytes = 4 << 20

const spoolTime = "2006-01-02T15:04:05.000000000Z"

func newSpool(dir string) *spool { return &spool{dir: dir, files: map[string]*spoolFile{}} }

// write appends lines to the log of a container's run. The text may have several lines; it is on its way to
// the disk when write returns, and survives the end of the process.
func (s *spool) write(p crilog.Pod, container string, run int, at time.Time, stderr bool, text []byte) error {
	stream := "stdout"
	if stderr {
		stream = "stderr"
	}
	prefix := at.UTC().Format(spoolTime) + " " + stream + " F "
	var b []byte
	for line := range bytes.Lines(text) {
		b = append(append(append(b, prefix...), bytes.TrimSuffix(line, []byte{'\n'})...), '\n')
	}
	return s.put(p, container, run, b)
}

// put appends whole entries.
func (s *spool) put(p crilog.Pod, container string, run int, entries []byte) error {
	dir := filepath.Join(s.dir, p.Namespace+"_"+p.Name+"_"+p.UID, container)
	path := filepath.Join(dir, fmt.Sprintf("%d.log", run))
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.files[path]
	if f == nil {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("spool log: %w", err)
		}
		file, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err != nil {
			return fmt.Errorf("spool log: %w", err)
		}
		info, err := file.Stat()
		if err != nil {
			return errors.Join(err, file.Close())
		}
		f = &spoolFile{file, info.Size()}
		s.files[path] = f
	}
	n, err := f.file.Write(entries)
	if err != nil {
		return fmt.Errorf("spool log: %w", errors.Join(err, f.file.Truncate(f.size)))
	}
	if f.size += int64(n); f.size >= spoolBytes {
		delete(s.files, path)
		return errors.Join(f.file.Close(), os.Rename(path, path+"."+time.Now().UTC().Format("20060102-150405.000000")))
	}
	return nil
}

// close lets go of the files of a pod's container, or of all with an empty path.
func (s *spool) close(dir string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for path, f := range s.files {
		if dir == "" || filepath.Dir(path) == dir || filepath.Dir(filepath.Dir(path)) == dir {
			f.file.Close()
			delete(s.files, path)
		}
	}
}
