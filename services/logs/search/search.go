// Package search answers questions in LogQL from pieces of logs: chunks of an archive and tails of files.
//
// What it holds in memory is bounded whatever is asked: a question that would need more is refused with
// an error that says what to change. Several may be answered at a time, each by at most two goroutines.
//
// Imported by services/logs and its packages.
package search

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/gantryhq/gantry/services/logs/archive"
	"github.com/gantryhq/gantry/services/logs/logql"
)

// StreamLabel says of a line whether it was written to stdout or stderr.
const StreamLabel = "stream"

// Unit is a piece of one log.
type Unit struct {
	Labels               labels.Labels
	Min, Max             int64 // between which times its lines are
	Order                int64 // grows with time among the pieces of one file, by more than there are lines
	Bytes, Lines, Stderr int   // 0 when not known without reading
	Scan                 func(s *archive.Scratch, needles []archive.Needle, contained []byte, each func(archive.Entry) bool) error
	// Times is Scan of all lines without their texts; nil when that costs as much.
	Times func(s *archive.Scratch, each func(archive.Entry) bool) error
	Close func() // or nil
}

// Source has logs.
type Source interface {
	// Units returns the pieces that may have lines from one time to another, both included, of logs whose
	// labels fit. Each is to be closed.
	Units(from, to int64, fits func(labels.Labels) bool) ([]Unit, error)
}

// Line is a line that was asked for.
type Line struct {
	Time   int64 // nanoseconds since 1970
	Labels labels.Labels
	Text   string
	order  int64 // among lines of the same time
}

// Options bound what is asked for.
type Options struct {
	From, To int64                       // nanoseconds since 1970; To is not included
	Limit    int                         // lines at most
	Forward  bool                        // the oldest lines rather than the newest
	May      func(namespace string) bool // whose logs may be seen
}

const (
	workers = 2
	// maxAnswer is how many bytes of lines one question may have in its answer.
	maxAnswer = 32 << 20
)

// selection is what a question says of labels.
type selection struct {
	matchers []*labels.Matcher
	streams  [2]bool // whether lines of stdout, of stderr are asked for
	may      func(namespace string) bool
}

func newSelection(matchers []*labels.Matcher, may func(string) bool) *selection {
	s := &selection{streams: [2]bool{true, true}, may: may}
	for _, m := range matchers {
		if m.Name == StreamLabel {
			s.streams[0] = s.streams[0] && m.Matches("stdout")
			s.streams[1] = s.streams[1] && m.Matches("stderr")
		} else {
			s.matchers = append(s.matchers, m)
		}
	}
	return s
}

func (s *selection) fits(l labels.Labels) bool {
	for _, m := range s.matchers {
		if !m.Matches(l.Get(m.Name)) {
			return false
		}
	}
	return s.may(l.Get("namespace"))
}

// Fits tells whether lines of a log, of stdout or of stderr, are selected by matchers.
func Fits(matchers []*labels.Matcher, l labels.Labels, stderr bool) bool {
	s := newSelection(matchers, func(string) bool { return true })
	return s.streams[streamIndex(stderr)] && s.fits(l)
}

func streamIndex(stderr bool) int {
	if stderr {
		return 1
	}
	return 0
}

// WithStream are the labels of a log's lines.
func WithStream(l labels.Labels, stderr bool) labels.Labels {
	return labels.NewBuilder(l).Set(StreamLabel, [2]string{"stdout", "stderr"}[streamIndex(stderr)]).Labels()
}

// reading goes through pieces for one question.
type reading struct {
	log      *logql.Log
	selected *selection
	from, to int64 // to is not included
	needles  []archive.Needle
	text     []byte // that lines must contain
	// timesOnly says that nothing of lines is needed but when they were written.
	timesOnly bool
}

func newReading(log *logql.Log, from, to int64, may func(string) bool) *reading {
	r := &reading{log: log, selected: newSelection(log.Matchers, may), from: from, to: to}
	for _, text := range log.Required() {
		if n := archive.NewNeedle(text); n != nil {
			r.needles = append(r.needles, n)
		}
	}
	r.text = log.Contained()
	return r
}

// match calls found with the lines of a piece that are asked for, until it returns false.
func (r *reading) match(ctx context.Context, u *Unit, s *archive.Scratch, found func(l *logql.Line, e archive.Entry) bool) error {
	var with [2]labels.Labels
	var line logql.Line
	n := 0
	scan := func(each func(archive.Entry) bool) error { return u.Scan(s, r.needles, r.text, each) }
	if r.timesOnly && u.Times != nil {
		scan = func(each func(archive.Entry) bool) error { return u.Times(s, each) }
	}
	return scan(func(e archive.Entry) bool {
		if n++; n%1024 == 0 && ctx.Err() != nil {
			return false
		}
		stream := streamIndex(e.Stderr)
		if e.Time < r.from || e.Time >= r.to || !r.selected.streams[stream] {
			return true
		}
		if with[stream].IsEmpty() {
			with[stream] = WithStream(u.Labels, e.Stderr)
		}
		line = logql.Line{Text: e.Line, Stream: with[stream], Extracted: line.Extracted[:0]}
		for _, stage := range r.log.Stages {
			if !stage.Pass(&line) {
				return true
			}
		}
		return found(&line, e)
	})
}

// inParallel calls do for pieces, and ends when one fails or ctx does.
func inParallel(ctx context.Context, units []Unit, do func(worker int, u *Unit, s *archive.Scratch) error) error {
	var wait sync.WaitGroup
	work := make(chan *Unit)
	failed := make(chan error, workers)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for w := range workers {
		wait.Go(func() {
			var s archive.Scratch
			for u := range work {
				if err := do(w, u, &s); err != nil {
					failed <- err
					cancel()
					return
				}
			}
		})
	}
	for i := range units {
		select {
		case work <- &units[i]:
			continue
		case <-ctx.Done():
		}
		break
	}
	close(work)
	wait.Wait()
	select {
	case err := <-failed:
		return err
	default:
		return ctx.Err()
	}
}

func closeAll(units []Unit) {
	for _, u := range units {
		if u.Close != nil {
			u.Close()
		}
	}
}

// batch is how many pieces are read before it is asked whether older or newer ones can still matter.
const batch = 8

// Lines answers a question for lines, in the order of their times. Lines of one log that have the same time
// keep their order, or its reverse.
func Lines(ctx context.Context, from Source, log *logql.Log, o Options) ([]Line, error) {
	r := newReading(log, o.From, o.To, o.May)
	units, err := from.Units(o.From, o.To-1, r.selected.fits)
	defer func() { closeAll(units) }()
	if err != nil {
		return nil, err
	}
	best := lines{limit: o.Limit, sign: -1} // the newest first
	reach := func(u *Unit) int64 { return u.Max }
	if o.Forward {
		best.sign, reach = 1, func(u *Unit) int64 { return u.Min }
	}
	slices.SortStableFunc(units, func(x, y Unit) int { return best.sign * cmp.Compare(reach(&x), reach(&y)) })
	for len(units) > 0 {
		if n := len(best.list); n == o.Limit && best.sign*cmp.Compare(reach(&units[0]), best.list[n-1].Time) > 0 {
			break // none of what follows comes before the last
		}
		n := min(batch, len(units))
		err := inParallel(ctx, units[:n], func(_ int, u *Unit, s *archive.Scratch) error {
			found := lines{limit: o.Limit, sign: best.sign}
			order := u.Order
			err := r.match(ctx, u, s, func(l *logql.Line, e archive.Entry) bool {
				order++
				found.add(Line{e.Time, l.Labels(), string(l.Text), order})
				if len(found.list) >= 2*o.Limit {
					found.keep()
				}
				return found.size <= maxAnswer
			})
			if err == nil {
				best.mu.Lock()
				defer best.mu.Unlock()
				for _, l := range found.list {
					best.add(l)
				}
				if best.size > maxAnswer {
					err = fmt.Errorf("the answer has more than %d MiB: ask for fewer lines or a shorter time", maxAnswer>>20)
				}
			}
			return err
		})
		if err != nil {
			return nil, err
		}
		best.keep()
		closeAll(units[:n])
		units = units[n:]
	}
	return best.list, nil
}

// lines are found lines, of which the first ones count.
type lines struct {
	limit int
	sign  int // 1 when the oldest is the first, -1 when the newest is

	mu   sync.Mutex
	list []Line
	size int // bytes
}

func (l *lines) add(line Line) {
	l.list = append(l.list, line)
	l.size += len(line.Text)
}

// keep sorts the lines and lets go of those that do not count.
func (l *lines) keep() {
	slices.SortStableFunc(l.list, func(x, y Line) int {
		return l.sign * cmp.Or(cmp.Compare(x.Time, y.Time), cmp.Compare(x.order, y.order))
	})
	for n := len(l.list) - 1; n >= l.limit; n-- {
		l.size -= len(l.list[n].Text)
		l.list[n] = Line{}
		l.list = l.list[:n]
	}
}
