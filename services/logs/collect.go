package logs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/gantryhq/gantry/services/logs/archive"
	"github.com/gantryhq/gantry/services/logs/crilog"
	"github.com/gantryhq/gantry/services/logs/search"
)

// collector reads log files as they grow and archives what is much enough.
type collector struct {
	dir     string // of the pods' directories
	archive *archive.Archive
	metrics *metrics
	owned   bool // the service has written the files, and removes those that are archived
	// labelsOf are the labels of a container's log, and whether all of them are known.
	labelsOf func(crilog.Pod, string) (labels.Labels, bool)
	hub      *search.Hub
	log      *slog.Logger

	step    sync.Mutex // whoever reads on; taken before those of the archive and before mu
	buf     []byte
	entries []archive.Entry
	listed  time.Time            // of dir
	polled  bool                 // all files have been looked at once
	pods    map[string]time.Time // directories of pods, and their times when they were listed
	waiting map[string]time.Time // directories whose pod is not known, and since when

	mu      sync.RWMutex // guards following, and what sources say
	sources map[string]*source
}

const (
	// pollInterval is how soon a new line is seen; busyInterval, when there was more than could be read at once.
	pollInterval = 500 * time.Millisecond
	busyInterval = 100 * time.Millisecond
	// podPatience is how long the labels of a pod are waited for, of which only files tell.
	podPatience = 3 * time.Second
)

func newCollector(dir string, owned bool, a *archive.Archive, m *metrics, hub *search.Hub, labelsOf func(crilog.Pod, string) (labels.Labels, bool), log *slog.Logger) *collector {
	return &collector{
		dir: dir, owned: owned, archive: a, metrics: m, hub: hub, labelsOf: labelsOf, log: log, buf: make([]byte, chunkBytes),
		pods: map[string]time.Time{}, waiting: map[string]time.Time{}, sources: map[string]*source{},
	}
}

// tell brings new entries of a log to those who follow it.
func (c *collector) tell(s *source, b []byte) {
	c.hub.Tell(s.labels, func(each func(archive.Entry)) {
		crilog.Lines(b, func(e crilog.Entry) bool {
			each(archive.Entry(e))
			return true
		})
	})
}

// run reads until ctx ends.
func (c *collector) run(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		timer.Reset(c.poll(time.Now()))
	}
}

// poll looks at all files once, and returns when to look again.
func (c *collector) poll(now time.Time) time.Duration {
	c.step.Lock()
	defer c.step.Unlock()
	c.discover(now)
	wait := pollInterval
	for _, s := range c.all() {
		if behind := c.advance(s, now, false); behind {
			wait = busyInterval
		}
	}
	c.polled = true
	return wait
}

// all lists the sources. Holds step.
func (c *collector) all() []*source {
	c.mu.RLock()
	defer c.mu.RUnlock()
	list := make([]*source, 0, len(c.sources))
	for _, s := range c.sources {
		list = append(list, s)
	}
	return list
}

// drain archives all that is in a directory of a pod or in the files of a container, which are about to
// be removed.
func (c *collector) drain(path string) {
	c.step.Lock()
	defer c.step.Unlock()
	rel, err := filepath.Rel(c.dir, path)
	if err != nil || strings.HasPrefix(rel, "..") {
		return
	}
	pod, _, _ := strings.Cut(rel, string(filepath.Separator))
	c.discoverPod(time.Now(), pod, true)
	for _, s := range c.all() {
		if s.dir == path || strings.HasPrefix(s.dir, path+"/") || strings.HasPrefix(path, s.dir+"/") {
			c.advance(s, time.Now(), s.dir == path || strings.HasPrefix(s.dir, path+"/"))
		}
	}
}

// discover finds new directories of pods and containers. Holds step.
func (c *collector) discover(now time.Time) {
	info, err := os.Stat(c.dir)
	if err != nil {
		return // there is no pod yet
	}
	if changed := info.ModTime(); changed != c.listed {
		entries, err := os.ReadDir(c.dir)
		if err != nil {
			c.log.Warn("cannot list the logs of pods", "err", err)
			return
		}
		if c.listed = changed; now.Sub(changed) < time.Second {
			c.listed = time.Time{} // another change in this moment may not be seen
		}
		for _, e := range entries {
			if _, known := c.pods[e.Name()]; !known && e.IsDir() {
				c.pods[e.Name()] = time.Time{}
			}
		}
	}
	for name := range c.pods {
		c.discoverPod(now, name, false)
	}
}

// discoverPod finds the containers of one pod. One that is urgent is not waited for until its labels are known.
func (c *collector) discoverPod(now time.Time, name string, urgent bool) {
	info, err := os.Stat(filepath.Join(c.dir, name))
	if err != nil {
		delete(c.pods, name)
		delete(c.waiting, name)
		return
	}
	changed := info.ModTime()
	if changed.Equal(c.pods[name]) && !urgent {
		return
	}
	p, ok := crilog.ParsePod(name)
	if !ok {
		return
	}
	_, known := c.labelsOf(p, "")
	if since, waits := c.waiting[name]; !known && !urgent {
		if !waits {
			c.waiting[name] = now
			return
		}
		if now.Sub(since) < podPatience {
			return
		}
	}
	delete(c.waiting, name)
	entries, err := os.ReadDir(filepath.Join(c.dir, name))
	if err != nil {
		return
	}
	if c.pods[name] = changed; now.Sub(changed) < time.Second {
		c.pods[name] = time.Time{}
	}
	for _, e := range entries {
		if e.IsDir() {
			c.add(p, name+"/"+e.Name(), e.Name())
		}
	}
}

func (c *collector) add(p crilog.Pod, key, container string) {
	l, _ := c.labelsOf(p, container)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.sources[key] != nil {
		return
	}
	c.sources[key] = &source{
		key: key, dir: filepath.Join(c.dir, key), pod: p, container: container, labels: l,
		counts: c.metrics.of(p, container),
	}
}

// relabel takes over what the API says of pods now.
func (c *collector) relabel() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range c.sources {
		if l, known := c.labelsOf(s.pod, s.container); known {
			s.labels = l
		}
	}
}

// advance reads on in one log, and tells whether there is more to read soon. With all, what is left is
// archived however little it is. Holds step.
func (c *collector) advance(s *source, now time.Time, all bool) (behind bool) {
	s.refill(now)
	for {
		if s.file != nil {
			if err := c.read(s, false); err != nil {
				c.complain(s, err)
				return false
			}
		}
		later, err := s.later(now)
		gone := errors.Is(err, fs.ErrNotExist)
		if err != nil && !gone {
			c.complain(s, err)
			return false
		}
		switch {
		case s.file == nil && len(later) > 0:
			err = c.resume(s, later)
		case s.file == nil && gone:
			c.remove(s)
			return false
		case s.file == nil:
			return false
		case gone || len(later) == 0 && all:
			err = c.read(s, true)
			if err == nil && gone {
				c.remove(s)
				return false
			}
			if err == nil {
				return false
			}
		case len(later) > 0:
			if err = c.read(s, false); err == nil && !all && s.waits() && len(later) < patience {
				s.listed = time.Time{}
				return true
			}
			if err == nil {
				err = c.next(s, later, all)
			}
		default:
			return s.read-s.archived >= chunkBytes
		}
		if err != nil {
			if s.listed = (time.Time{}); !errors.Is(err, errEmpty) && !errors.Is(err, fs.ErrNotExist) {
				c.complain(s, err)
			}
			return false
		}
	}
}

// waits tells whether the rest of a file may not be archived yet.
func (s *source) waits() bool { return s.allowance < float64(s.read-s.archived) }

func (c *collector) complain(s *source, err error) {
	if c.metrics.failed() {
		c.log.Warn("cannot archive a log; trying again", "log", s.key, "err", err)
	}
}

// read counts what is new and archives whole chunks of it; with rest, also what is less.
func (c *collector) read(s *source, rest bool) error {
	err := s.count(c.buf, func(b []byte) { c.tell(s, b) })
	if err != nil {
		return err
	}
	for s.read-s.archived >= chunkBytes && s.allowance >= chunkBytes {
		if err := c.chunk(s, chunkBytes, false); err != nil {
			return err
		}
	}
	if !rest {
		return nil
	}
	info, err := s.file.Stat()
	if err != nil {
		return err
	}
	for s.archived < info.Size() && s.allowance > 0 {
		if err := c.chunk(s, int(min(chunkBytes, info.Size()-s.archived)), true); err != nil {
			return err
		}
	}
	left := info.Size() - s.archived
	if left <= 0 {
		return nil
	}
	c.mu.Lock()
	s.archived += left
	c.mu.Unlock()
	return c.tooMuch(s, left, s.last)
}

// chunk archives up to so many bytes of a file, which ends there when it is at its end.
func (c *collector) chunk(s *source, size int, rest bool) error {
	b := c.buf[:size]
	n, err := s.file.ReadAt(b, s.archived)
	if err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("read log: %w", err)
	}
	b = b[:n]
	end := crilog.Complete(b)
	if end == 0 {
		end = len(b) // a line without an end
	}
	if last := s.archived+int64(n) >= s.read; rest && last {
		end = len(b)
	}
	if end == 0 {
		return io.ErrUnexpectedEOF
	}
	c.entries = c.entries[:0]
	text := b[:end]
	if text[end-1] != '\n' { // the writer was interrupted
		text = append(append(make([]byte, 0, end+1), text...), '\n')
	}
	crilog.Lines(text, func(e crilog.Entry) bool {
		c.entries = append(c.entries, archive.Entry(e))
		return true
	})
	to := s.at()
	to.Offset += int64(end)
	err = c.archive.Append(s.key, s.labels, to, c.entries, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		s.archived = to.Offset
		s.read = max(s.read, s.archived)
		if n := len(c.entries); n > 0 {
			s.last = c.entries[n-1].Time
		}
	})
	if err == nil {
		s.allowance -= float64(end)
		c.metrics.archived.Add(float64(end))
	}
	return err
}

// resume begins where a former process has stopped, or at the first file.
func (c *collector) resume(s *source, files []crilog.File) error {
	at, known := c.archive.Position(s.key)
	if !known {
		return c.open(s, files, 0)
	}
	rest, offset, missing := resume(files, at)
	if err := c.open(s, rest, offset); err != nil || !missing {
		return err
	}
	return c.note(s, s.head, "a part of this log is missing here: it was removed before it could be read")
}

// next goes on with a later file; the one that is read gets no more lines.
func (c *collector) next(s *source, later []crilog.File, all bool) error {
	if err := s.count(c.buf, func(b []byte) { c.tell(s, b) }); err != nil {
		return err
	}
	if all || !s.waits() {
		s.allowance = max(s.allowance, 1) // at least the end of it
		if err := c.read(s, true); err != nil {
			return err
		}
		return c.open(s, later, 0)
	}
	info, err := s.file.Stat()
	if err != nil {
		return err
	}
	left := info.Size() - s.archived
	for ; len(later) > patience-1; later = later[1:] {
		if info, err := os.Stat(later[0].Path); err == nil {
			left += info.Size()
		}
	}
	if err := c.open(s, later, 0); err != nil {
		return err
	}
	return c.tooMuch(s, left, s.head)
}

// tooMuch says in a log how much of it is left out.
func (c *collector) tooMuch(s *source, bytes, at int64) error {
	s.counts.dropped.Add(float64(bytes))
	return c.note(s, at, fmt.Sprintf("%d bytes of this log were not kept: the container writes more than %d MiB/s", bytes, floodRate>>20))
}

// note puts a line of the service's own into a log.
func (c *collector) note(s *source, at int64, text string) error {
	return c.archive.Append(s.key, s.labels, s.at(), []archive.Entry{{Time: at, Stderr: true, Line: []byte("gantry: " + text)}}, func() {})
}

// errEmpty says that no file has an entry yet.
var errEmpty = errors.New("nothing has been written")

// open goes on with the first of the files that is not empty, at an offset. What was read before is archived.
func (c *collector) open(s *source, files []crilog.File, offset int64) error {
	for i, f := range files {
		file, err := os.Open(f.Path)
		if err != nil {
			return err // it has got another name meanwhile
		}
		head, err := crilog.Head(file)
		info, statErr := file.Stat()
		if err = errors.Join(err, statErr); err != nil || head == 0 {
			file.Close()
			if err != nil {
				return err
			}
			continue
		}
		if i > 0 {
			offset = 0
		}
		offset = min(offset, info.Size())
		at := archive.Position{Run: f.Run, Head: head, Offset: offset}
		defer c.removeBefore(s.dir, f)
		return c.archive.Append(s.key, s.labels, at, nil, func() {
			c.mu.Lock()
			defer c.mu.Unlock()
			if s.file != nil {
				s.file.Close()
			}
			s.file, s.run, s.head, s.archived, s.read = file, f.Run, head, offset, offset
			if !c.polled { // written before this process began, and perhaps counted by another
				s.read = info.Size()
			}
		})
	}
	return errEmpty
}

// removeBefore removes the service's own files before one, which are archived.
func (c *collector) removeBefore(dir string, f crilog.File) {
	if !c.owned {
		return
	}
	files, err := crilog.Files(dir)
	if err != nil {
		return // it is tried again with the next file
	}
	for _, old := range files {
		if old == f {
			return
		}
		_ = os.Remove(old.Path) // tried again with the next file
	}
}

// remove forgets a log that is no more, all of which is archived.
func (c *collector) remove(s *source) {
	c.archive.Forget(func(source string) bool { return source == s.key })
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.sources, s.key)
	if s.file != nil {
		s.file.Close()
	}
	c.metrics.forget(s.pod, s.container)
}

// has tells whether the source is being read.
func (c *collector) has(source string) bool {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.sources[source] != nil
}

// namespaces adds those whose logs there are.
func (c *collector) namespaces(to map[string]bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	for _, s := range c.sources {
		to[s.pod.Namespace] = true
	}
}

// tails returns what is not archived of the logs that fit. Nothing may be archived meanwhile.
func (c *collector) tails(fits func(labels.Labels) bool) (list []*tail, err error) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	for _, s := range c.sources {
		if !fits(s.labels) {
			continue
		}
		t, err := s.openTail()
		if err != nil {
			return list, err
		}
		if t != nil {
			list = append(list, t)
		}
	}
	return list, nil
}
