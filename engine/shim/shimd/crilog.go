package shimd

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"
)

// maxLine is the longest piece of a line in one log entry, as containerd has it.
const maxLine = 16 << 10

// reopenInterval is how long a log file that cannot be opened is left alone.
const reopenInterval = time.Second

// timeFormat has a fixed width, so that entries sort as text.
const timeFormat = "2006-01-02T15:04:05.000000000Z07:00"

// criLog writes container output in the CRI log format: one entry per line,
// "TIME STREAM TAG TEXT", tag F for a full line and P for a part of one.
type criLog struct {
	path string // "" discards

	mu       sync.Mutex
	file     *os.File // nil until it could be opened
	size     int64    // of file
	triedAt  time.Time
	pending  map[string][]byte // stream: text since the last newline
	out      []byte            // entries of the current write
	dropped  int               // entries that could not be written
	dropNote string            // why
}

func openLog(path string) *criLog {
	l := &criLog{path: path, pending: map[string][]byte{}}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open()
	return l
}

// open opens the file unless it was tried a moment ago. Holds l.mu.
func (l *criLog) open() {
	if l.path == "" || l.file != nil || time.Since(l.triedAt) < reopenInterval {
		return
	}
	l.triedAt = time.Now()
	f, err := os.OpenFile(l.path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o640)
	if err != nil {
		l.dropNote = err.Error()
		return
	}
	l.file, l.size = f, 0
	if info, err := f.Stat(); err == nil {
		l.size = info.Size()
	}
}

// The log of one run of a container is at most logFiles files of logBytes. It is the
// writer that keeps it so: whoever looked from time to time would find what a flood
// has written in between.
const (
	logBytes = 10 << 20
	logFiles = 5
)

// rotate puts a file that is full aside and begins another. Holds l.mu.
func (l *criLog) rotate() {
	old, _ := filepath.Glob(l.path + ".*") // the pattern is sound
	slices.Sort(old)                       // by time
	for ; len(old) > logFiles-2; old = old[1:] {
		os.Remove(old[0])
	}
	l.closeFile()
	if err := os.Rename(l.path, l.path+"."+time.Now().UTC().Format("20060102-150405.000000")); err != nil {
		l.dropNote = err.Error() // and the file goes on
	}
	l.triedAt = time.Time{}
	l.open()
}

// reopen makes the next entry go to a new file of the same name.
func (l *criLog) reopen() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closeFile()
	l.triedAt = time.Time{}
	l.open()
	if l.path != "" && l.file == nil {
		return fmt.Errorf("reopen log: %s", l.dropNote)
	}
	return nil
}

func (l *criLog) closeFile() {
	if l.file != nil {
		l.file.Close()
		l.file = nil
	}
}

// write appends what a stream produced.
func (l *criLog) write(stream string, data []byte) {
	if l.path == "" {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now().UTC()
	pending := l.pending[stream]
	for len(data) > 0 {
		line, rest, full := bytes.Cut(data, []byte{'\n'})
		if room := maxLine - len(pending); len(line) > room {
			l.append(now, stream, "P", pending, line[:room])
			pending, data = nil, data[room:]
			continue
		}
		if full {
			l.append(now, stream, "F", pending, line)
			pending = nil
		} else {
			pending = append(pending, line...)
		}
		data = rest
	}
	if len(pending) == 0 {
		delete(l.pending, stream)
	} else {
		l.pending[stream] = pending
	}
	l.flush()
}

// end writes what is left of a stream that was closed in the middle of a line.
func (l *criLog) end(stream string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if rest := l.pending[stream]; len(rest) > 0 {
		delete(l.pending, stream)
		l.append(time.Now().UTC(), stream, "P", rest, nil)
	}
	l.triedAt = time.Time{} // there may be no later chance to say what was dropped
	l.flush()
}

func (l *criLog) append(now time.Time, stream, tag string, head, tail []byte) {
	b := now.AppendFormat(l.out, timeFormat)
	b = append(b, ' ')
	b = append(b, stream...)
	b = append(b, ' ')
	b = append(b, tag...)
	b = append(b, ' ')
	b = append(b, head...)
	b = append(b, tail...)
	l.out = append(b, '\n')
}

// flush writes the collected entries, or drops and counts those that do not fit
// on the disk: a container must not stop because its log cannot be written.
func (l *criLog) flush() {
	out := l.out
	if l.out = l.out[:0]; cap(l.out) > 4*maxLine {
		l.out = nil
	}
	if len(out) == 0 && l.dropped == 0 {
		return
	}
	l.open()
	if l.dropped > 0 && l.file != nil {
		note := time.Now().UTC().Format(timeFormat) + " stderr F gantry: " +
			strconv.Itoa(l.dropped) + " log lines were dropped: " + l.dropNote + "\n"
		if rest := l.put([]byte(note)); len(rest) == 0 {
			l.dropped = 0
		}
	}
	if l.file != nil && l.dropped == 0 && len(out) > 0 {
		out = l.put(out)
	}
	if l.file != nil && l.size >= logBytes {
		l.rotate()
	}
	l.dropped += bytes.Count(out, []byte{'\n'})
}

// put writes entries and returns those that could not be written; what is in
// the file ends with a whole entry.
func (l *criLog) put(entries []byte) (rest []byte) {
	n, err := l.file.Write(entries)
	l.size += int64(n)
	if err == nil {
		return nil
	}
	l.dropNote = err.Error()
	whole := bytes.LastIndexByte(entries[:n], '\n') + 1
	if info, statErr := l.file.Stat(); whole < n && statErr == nil {
		l.file.Truncate(info.Size() - int64(n-whole))
		l.size -= int64(n - whole)
	}
	return entries[whole:]
}

func (l *criLog) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closeFile()
	l.path = ""
}
