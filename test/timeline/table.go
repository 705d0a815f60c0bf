package timeline

import (
	"cmp"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"text/tabwriter"
	"time"

	"golang.org/x/sys/unix"
)

// AddFiles adds the stages of the node, read from the data directory of the
// instance, for the pods that exist.
func (t *Timeline) AddFiles(dataDir string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, p := range t.pods {
		if !p.exists {
			continue
		}
		uid := string(p.uid)
		for stage, path := range map[Stage]string{
			Taken:   filepath.Join(dataDir, "run", "sandbox", uid),
			Started: filepath.Join(dataDir, "logs", "pods", p.namespace+"_"+p.name+"_"+uid, p.container, "0.log"),
		} {
			at, known := birth(path)
			p.reach(stage, at, known)
		}
	}
}

// birth answers when a file was made.
func birth(path string) (time.Time, bool) {
	var s unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, path, unix.AT_SYMLINK_NOFOLLOW, unix.STATX_BTIME, &s); err != nil || s.Mask&unix.STATX_BTIME == 0 {
		return time.Time{}, false
	}
	return time.Unix(s.Btime.Sec, int64(s.Btime.Nsec)), true
}

// Row is one stage of all pods that reached it since Begin.
type Row struct {
	Stage Stage
	Pods  int
	// Since the call: when the first pod, half of them, and so on were there.
	First, Half, Most, Last time.Duration
	// Since the stage before that is known, per pod.
	StepHalf, StepMost, StepLast time.Duration
}

// most is the share of Row.Most and Row.StepMost.
const most = 0.9

// Rows answers the stages that were reached since Begin.
func (t *Timeline) Rows() []Row {
	t.mu.Lock()
	defer t.mu.Unlock()
	return append(t.rows(growing), t.rows(shrinking)...)
}

func (t *Timeline) rows(stages []Stage) []Row {
	since, steps := map[Stage][]time.Duration{}, map[Stage][]time.Duration{}
	for _, p := range t.pods {
		before := t.began
		for _, s := range stages {
			at, reached := p.at[s]
			if !reached || at.Before(t.began.Add(-fileTick)) {
				continue // not reached, or in an earlier measurement
			}
			since[s] = append(since[s], at.Sub(t.began))
			steps[s] = append(steps[s], at.Sub(before))
			before = at
		}
	}
	var rows []Row
	for _, s := range stages {
		if n := len(since[s]); n > 0 {
			slices.Sort(since[s])
			slices.Sort(steps[s])
			rows = append(rows, Row{Stage: s, Pods: n,
				First: since[s][0], Half: at(since[s], 0.5), Most: at(since[s], most), Last: since[s][n-1],
				StepHalf: at(steps[s], 0.5), StepMost: at(steps[s], most), StepLast: steps[s][n-1]})
		}
	}
	return rows
}

// fileTick is how much too early the birth of a file may seem.
const fileTick = 4 * time.Millisecond

func at(sorted []time.Duration, share float64) time.Duration {
	return sorted[int(share*float64(len(sorted)-1))]
}

// Print writes the table for people.
func (t *Timeline) Print(to io.Writer, title string) {
	rows := t.Rows()
	t.mu.Lock()
	writes := t.writes
	t.mu.Unlock()
	fmt.Fprintf(to, "%s (milliseconds; %d changes of endpoint slices)\n", title, writes)
	printRows(to, rows)
}

// PrintMedian writes the medians of several measurements of the same thing.
func PrintMedian(to io.Writer, title string, runs [][]Row) {
	var rows []Row
	for _, stage := range append(slices.Clone(growing), shrinking...) {
		var same []Row
		for _, run := range runs {
			for _, r := range run {
				if r.Stage == stage {
					same = append(same, r)
				}
			}
		}
		if len(same) == 0 {
			continue
		}
		median := func(of func(Row) time.Duration) time.Duration {
			slices.SortFunc(same, func(a, b Row) int { return cmp.Compare(of(a), of(b)) })
			return of(same[len(same)/2])
		}
		rows = append(rows, Row{Stage: stage, Pods: same[0].Pods,
			First: median(func(r Row) time.Duration { return r.First }), Half: median(func(r Row) time.Duration { return r.Half }),
			Most: median(func(r Row) time.Duration { return r.Most }), Last: median(func(r Row) time.Duration { return r.Last }),
			StepHalf: median(func(r Row) time.Duration { return r.StepHalf }), StepMost: median(func(r Row) time.Duration { return r.StepMost }),
			StepLast: median(func(r Row) time.Duration { return r.StepLast })})
	}
	fmt.Fprintf(to, "%s (milliseconds, medians of %d)\n", title, len(runs))
	printRows(to, rows)
}

func printRows(to io.Writer, rows []Row) {
	w := tabwriter.NewWriter(to, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "stage\tpods\tfirst\thalf\t90 %\tlast\t| step: half\t90 %\tmost\t")
	ms := func(d time.Duration) string { return fmt.Sprintf("%.1f", float64(d.Microseconds())/1000) }
	for _, r := range rows {
		fmt.Fprintf(w, "%s\t%d\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t\n", r.Stage, r.Pods,
			ms(r.First), ms(r.Half), ms(r.Most), ms(r.Last), ms(r.StepHalf), ms(r.StepMost), ms(r.StepLast))
	}
	_ = w.Flush()
}
