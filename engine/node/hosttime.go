package node

import (
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// hostTime tells how the machine's clock is kept, by adjtimex(2), as node_exporter's timex collector does.
func hostTime(b *exposition) error {
	var t unix.Timex
	status, err := unix.Adjtimex(&t)
	if err != nil {
		return err
	}
	unit := 1e6 // microseconds, unless the kernel says nanoseconds
	if t.Status&unix.STA_NANO != 0 {
		unit = 1e9
	}
	synchronised := 1.0
	if status == unix.TIME_ERROR {
		synchronised = 0
	}
	b.one("node_timex_sync_status", "gauge", synchronised)
	b.one("node_timex_offset_seconds", "gauge", float64(t.Offset)/unit)
	b.one("node_timex_maxerror_seconds", "gauge", float64(t.Maxerror)/1e6)
	b.one("node_timex_estimated_error_seconds", "gauge", float64(t.Esterror)/1e6)
	b.one("node_timex_frequency_adjustment_ratio", "gauge", 1+float64(t.Freq)/65536e6)
	b.one("node_timex_status", "gauge", float64(t.Status))
	b.one("node_timex_tai_offset_seconds", "gauge", float64(t.Tai))
	if by, at := steps.look(); !at.IsZero() {
		b.one("gantry_node_clock_step_seconds", "gauge", by.Seconds())
		b.one("gantry_node_clock_step_timestamp_seconds", "gauge", float64(at.UnixMilli())/1e3)
	}
	return nil
}

// steps are those of this machine's clock.
var steps clockSteps

// clockSteps finds leaps of the clock: what it went ahead of, or behind, the time since the machine started
// between two looks. A machine that slept has not leapt.
type clockSteps struct {
	mu    sync.Mutex
	known bool
	lead  time.Duration // of the clock before the time since start
	by    time.Duration // of the last leap
	at    time.Time
}

// clockStep is the least that counts as a leap; corrections of a running time service are smaller.
const clockStep = time.Second

// look returns the last leap, and when it was seen; never is the zero time.
func (s *clockSteps) look() (by time.Duration, at time.Time) {
	var since unix.Timespec
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &since) != nil {
		return 0, time.Time{}
	}
	now := time.Now().Round(0)
	return s.note(now, now.Sub(time.Unix(0, 0))-time.Duration(since.Nano()))
}

func (s *clockSteps) note(now time.Time, lead time.Duration) (by time.Duration, at time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if leapt := lead - s.lead; s.known && leapt.Abs() >= clockStep {
		s.by, s.at = leapt, now
	}
	s.known, s.lead = true, lead
	return s.by, s.at
}
