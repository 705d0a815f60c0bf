package pipeline

import (
	"testing"
	"time"

	"github.com/gantryhq/gantry/api/v1alpha1"
)

func TestTriggersByTheClock(t *testing.T) {
	p := &v1alpha1.Pipeline{}
	p.Generation = 1
	p.Spec.Triggers = v1alpha1.PipelineTriggers{PollSeconds: 60, Schedule: "0 2 * * *", TimeZone: "Europe/Berlin"}
	now := time.Date(2026, 3, 28, 23, 58, 30, 0, time.UTC) // the night before summer time begins
	w := &watched{generation: -1}
	at := func(when time.Time, wantLook, wantRun bool) {
		t.Helper()
		if look, run := w.due(p, when); look != wantLook || run != wantRun {
			t.Errorf("at %v: look %v, run %v", when, look, run)
		}
	}
	at(now, true, false) // what happened while nobody watched
	at(now.Add(time.Second), false, false)
	if next := w.next(); !next.Equal(now.Add(time.Minute)) {
		t.Errorf("next at %v", next)
	}
	at(now.Add(time.Minute), true, false)
	if want := time.Date(2026, 3, 30, 0, 0, 0, 0, time.UTC); !w.nextRun.Equal(want) {
		// There is no 2:00 in Berlin on the 29th; on the 30th it is midnight in UTC.
		t.Errorf("runs next at %v, want %v", w.nextRun.UTC(), want)
	}
	at(w.nextRun, true, true)
	if want := time.Date(2026, 3, 31, 0, 0, 0, 0, time.UTC); !w.nextRun.Equal(want) {
		t.Errorf("then runs at %v", w.nextRun.UTC())
	}
	p.Generation, p.Spec.Triggers = 2, v1alpha1.PipelineTriggers{}
	at(now.Add(1000*time.Hour), false, false)
	if !w.next().IsZero() {
		t.Errorf("without triggers comes back at %v", w.next())
	}
	p.Generation, p.Spec.Triggers.Schedule = 3, "at noon"
	at(now, false, false)
	if w.problem == nil {
		t.Error("a schedule that is none is no problem")
	}
}
