// Package progress shows people what is going on: on a terminal one line per
// task, redrawn in place with a bar or a spinner; anywhere else plain lines as
// tasks change, few enough to read well in a log.
//
// A Display is safe for concurrent use. Callers must Close it before they write
// to the same terminal by other means. Any command may import this package.
package progress

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"golang.org/x/term"
)

const (
	redrawInterval = 100 * time.Millisecond
	nameWidth      = 26
	barWidth       = 20
	defaultColumns = 80
	defaultLines   = 24
	// plainInterval is the least time between two plain lines of one task; its
	// end is always written.
	plainInterval = 2 * time.Second
)

type state int

const (
	running state = iota
	done
	failed
)

// Display shows a set of tasks.
type Display struct {
	out  io.Writer
	size func() (columns, lines int) // nil when out is not a terminal
	now  func() time.Time

	mu    sync.Mutex // guards all below and the tasks' fields
	tasks []*Task
	drawn int // lines on the screen that belong to us
	frame int
	stop  chan struct{} // nil when out is not a terminal
	ended sync.WaitGroup
}

// Task is one line of a Display.
type Task struct {
	display *Display
	name    string
	status  string
	total   int64
	current int64
	state   state
	start   time.Time
	took    time.Duration
	written time.Time // of the last plain line
}

// New shows progress on f: in place when f is a terminal, else as plain lines.
func New(f *os.File) *Display {
	if !term.IsTerminal(int(f.Fd())) || os.Getenv("TERM") == "dumb" {
		return Plain(f)
	}
	d := &Display{out: f, now: time.Now, stop: make(chan struct{}), size: func() (int, int) {
		if columns, lines, err := term.GetSize(int(f.Fd())); err == nil && columns > 0 && lines > 0 {
			return columns, lines
		}
		return defaultColumns, defaultLines
	}}
	d.ended.Add(1)
	go d.redraw()
	return d
}

// Plain writes lines as tasks change.
func Plain(w io.Writer) *Display { return &Display{out: w, now: time.Now} }

// Task adds a line.
func (d *Display) Task(name string) *Task {
	d.mu.Lock()
	defer d.mu.Unlock()
	t := &Task{display: d, name: name, start: d.now()}
	d.tasks = append(d.tasks, t)
	return t
}

// Printf writes a line that stays, above the tasks.
func (d *Display) Printf(format string, args ...any) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.draw(fmt.Sprintf(format+"\n", args...), d.visible())
}

// Close draws the last state and leaves it on the screen.
func (d *Display) Close() {
	if d.stop != nil {
		close(d.stop)
		d.ended.Wait()
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.draw("", d.tasks)
	d.tasks, d.drawn, d.stop = nil, 0, nil
}

// Update says what the task is doing now.
func (t *Task) Update(format string, args ...any) {
	t.set(running, fmt.Sprintf(format, args...))
}

// Done ends the task well.
func (t *Task) Done(format string, args ...any) { t.set(done, fmt.Sprintf(format, args...)) }

// Fail ends the task badly.
func (t *Task) Fail(format string, args ...any) { t.set(failed, fmt.Sprintf(format, args...)) }

// Count turns the spinner into a bar.
func (t *Task) Count(current, total int64) {
	t.display.mu.Lock()
	defer t.display.mu.Unlock()
	t.current, t.total = current, total
}

func (t *Task) set(s state, status string) {
	d := t.display
	d.mu.Lock()
	defer d.mu.Unlock()
	status, _, _ = strings.Cut(status, "\n")
	if t.state == s && t.status == status || t.state != running {
		return
	}
	t.state, t.status = s, status
	if s != running {
		t.took = d.now().Sub(t.start)
	}
	if d.size == nil && (s != running || d.now().Sub(t.written) >= plainInterval) {
		t.written = d.now()
		fmt.Fprintln(d.out, t.plain())
	}
}

func (t *Task) plain() string {
	switch t.state {
	case done:
		return fmt.Sprintf("%s: %s (%s)", t.name, t.status, round(t.took))
	case failed:
		return fmt.Sprintf("%s: failed: %s", t.name, t.status)
	}
	return fmt.Sprintf("%s: %s", t.name, t.status)
}

func round(d time.Duration) time.Duration {
	if d < time.Second {
		return d.Round(time.Millisecond)
	}
	return d.Round(100 * time.Millisecond)
}

func (d *Display) redraw() {
	defer d.ended.Done()
	ticker := time.NewTicker(redrawInterval)
	defer ticker.Stop()
	for {
		select {
		case <-d.stop:
			return
		case <-ticker.C:
			d.mu.Lock()
			d.frame++
			d.draw("", d.visible())
			d.mu.Unlock()
		}
	}
}

// visible are the tasks that fit on the screen: when there are too many, those
// that ended go first. Callers hold mu.
func (d *Display) visible() []*Task {
	if d.size == nil {
		return nil
	}
	_, lines := d.size()
	excess := len(d.tasks) - max(lines-2, 1)
	if excess <= 0 {
		return d.tasks
	}
	var fit []*Task
	for _, t := range d.tasks {
		if excess > 0 && t.state == done {
			excess--
			continue
		}
		fit = append(fit, t)
	}
	return fit[:len(fit)-max(excess, 0)]
}

// draw replaces our lines on the screen, with text above them that stays, in one
// write so that nothing flickers. Callers hold mu.
func (d *Display) draw(text string, tasks []*Task) {
	var b strings.Builder
	if d.size != nil {
		b.WriteString(strings.Repeat("\x1b[1A\x1b[2K", d.drawn))
	}
	b.WriteString(text)
	if d.size != nil {
		columns, _ := d.size()
		for _, t := range tasks {
			b.WriteString(t.line(d.frame, columns))
			b.WriteByte('\n')
		}
		d.drawn = len(tasks)
	}
	io.WriteString(d.out, b.String())
}

const (
	reset = "\x1b[0m"
	green = "\x1b[32m"
	red   = "\x1b[31m"
	cyan  = "\x1b[36m"
	faint = "\x1b[2m"
)

func (t *Task) line(frame, width int) string {
	spinner := []rune("⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏")
	mark, colour, took := string(spinner[frame%len(spinner)]), cyan, t.display.now().Sub(t.start)
	switch t.state {
	case done:
		mark, colour, took = "✔", green, t.took
	case failed:
		mark, colour, took = "✘", red, t.took
	}
	clock := fmt.Sprintf("%7.1fs", took.Seconds())
	middle := t.status
	if t.total > 0 && t.state == running {
		middle = bar(t.current, t.total) + " " + t.status
	}
	room := width - nameWidth - len(clock) - 5
	return fmt.Sprintf("%s%s%s %s %s %s%s%s", colour, mark, reset, fit(t.name, nameWidth), fit(middle, max(room, 8)), faint, clock, reset)
}

func bar(current, total int64) string {
	filled := int(min(current, total) * barWidth / total)
	return "[" + strings.Repeat("━", filled) + strings.Repeat(" ", barWidth-filled) + "]"
}

// fit makes s exactly n columns wide.
func fit(s string, n int) string {
	have := utf8.RuneCountInString(s)
	if have <= n {
		return s + strings.Repeat(" ", n-have)
	}
	return string([]rune(s)[:n-1]) + "…"
}
