package crilog

import (
	"bytes"
	"fmt"
)

// Complete is how many bytes at the begin of b end with a whole line, of what is whole entries; 0 when
// there is none.
func Complete(b []byte) int {
	end := bytes.LastIndexByte(b, '\n') + 1
	for end > 0 {
		begin := bytes.LastIndexByte(b[:end-1], '\n') + 1
		if p, ok := parse(b[begin : end-1]); !ok || !p.partial {
			return end
		}
		end = begin
	}
	return 0
}

// Lines calls each with the lines of b, which begins with an entry; what follows the last newline is left
// out. What each is given is valid while b is. A line whose end is not in b is given as far as it is
// there. An entry that is none is taken for text of the time of the one before it.
func Lines(b []byte, each func(Entry) bool) {
	var open [2]*line // of standard output and error
	var last int64
	for len(b) > 0 {
		entry, rest, whole := bytes.Cut(b, []byte{'\n'})
		if !whole {
			break
		}
		b = rest
		p, ok := parse(entry)
		if !ok {
			p = piece{time: last, text: entry}
		}
		last = p.time
		stream := 0
		if p.stderr {
			stream = 1
		}
		l := open[stream]
		if l == nil && !p.partial && len(p.text) <= MaxLine { // nearly always
			if !each(Entry{p.time, p.stderr, p.text}) {
				return
			}
			continue
		}
		if l == nil {
			l = &line{Entry: Entry{Time: p.time, Stderr: p.stderr}}
		}
		l.add(p.text)
		if open[stream] = l; p.partial {
			continue
		}
		l.cut()
		open[stream] = nil
		if !each(l.Entry) {
			return
		}
	}
	for _, l := range open {
		if l != nil {
			l.cut()
			if !each(l.Entry) {
				return
			}
		}
	}
}

// line is one that is put together.
type line struct {
	Entry
	more int // bytes that were left out
}

func (l *line) add(text []byte) {
	n := min(len(text), max(0, MaxLine-len(l.Line)))
	l.Line = append(l.Line, text[:n]...)
	l.more += len(text) - n
}

// cut marks a line that is too long.
func (l *line) cut() {
	if l.more > 0 {
		l.Line = fmt.Appendf(l.Line[:len(l.Line):len(l.Line)], " [gantry: %d more bytes of this line were cut]", l.more)
	}
}
