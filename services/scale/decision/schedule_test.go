package decision

import (
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/gantryhq/gantry/api/v1alpha1"
)

func p[T any](v T) *T { return &v }

func TestSchedules(t *testing.T) {
	at := func(text string) time.Time {
		v, err := time.Parse(time.RFC3339, text)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	calendar, err := NewCalendar([]v1alpha1.ScaleSchedule{
		{Name: "fridays", Cron: p("55 11 * * 5"), TimeZone: p("Europe/Berlin"), DurationSeconds: p(int32(3600)), Replicas: 200},
		{Name: "once", Start: &metav1.Time{Time: at("2026-11-30T08:00:00Z")}, End: &metav1.Time{Time: at("2026-11-30T10:00:00Z")}, Replicas: 50},
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		now      string
		replicas int32
		changes  string
	}{
		{"2026-11-27T10:54:59Z", 0, "2026-11-27T10:55:00Z"}, // Berlin is an hour ahead in winter
		{"2026-11-27T10:55:00Z", 200, "2026-11-27T11:55:00Z"},
		{"2026-11-27T11:54:59Z", 200, "2026-11-27T11:55:00Z"},
		{"2026-11-27T11:55:00Z", 0, "2026-11-30T08:00:00Z"},
		{"2026-11-30T09:00:00Z", 50, "2026-11-30T10:00:00Z"},
		{"2026-11-30T10:00:00Z", 0, "2026-12-04T10:55:00Z"},
		{"2026-07-03T09:55:00Z", 200, "2026-07-03T10:55:00Z"}, // and two in summer
	} {
		floor, changes := calendar.At(at(c.now))
		if floor.Replicas != c.replicas || !changes.Equal(at(c.changes)) {
			t.Errorf("at %s: %d replicas until %s, want %d until %s", c.now, floor.Replicas, changes.UTC().Format(time.RFC3339), c.replicas, c.changes)
		}
	}
}

func TestSchedulesThatCannotBeUnderstood(t *testing.T) {
	for want, s := range map[string]v1alpha1.ScaleSchedule{
		"no time zone":   {Name: "x", Cron: p("0 0 * * *"), TimeZone: p("Mars/Olympus"), DurationSeconds: p(int32(60)), Replicas: 1},
		"five fields":    {Name: "x", Cron: p("every noon"), DurationSeconds: p(int32(60)), Replicas: 1},
		"no fixed times": {Name: "x", Cron: p("@every 5m"), DurationSeconds: p(int32(60)), Replicas: 1},
		"neither":        {Name: "x", Replicas: 1},
	} {
		if _, err := NewCalendar([]v1alpha1.ScaleSchedule{s}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error is %v, want one with %q", err, want)
		}
	}
}
