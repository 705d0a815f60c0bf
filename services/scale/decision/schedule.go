package decision

import (
	"fmt"
	"time"
	_ "time/tzdata" // for machines that have none of their own

	"github.com/robfig/cron/v3"

	"github.com/gantryhq/gantry/api/v1alpha1"
)

// Calendar is the schedules of a policy.
type Calendar []entry

type entry struct {
	name       string
	replicas   int32
	cron       cron.Schedule // or nil
	duration   time.Duration
	start, end time.Time
}

// NewCalendar reads schedules, or says which one cannot be understood and why.
func NewCalendar(schedules []v1alpha1.ScaleSchedule) (Calendar, error) {
	var c Calendar
	for _, s := range schedules {
		e := entry{name: s.Name, replicas: s.Replicas}
		switch {
		case s.Cron != nil && s.DurationSeconds != nil:
			location := time.UTC
			if s.TimeZone != nil {
				var err error
				if location, err = time.LoadLocation(*s.TimeZone); err != nil {
					return nil, fmt.Errorf("schedule %q: there is no time zone %q: use a name such as Europe/Berlin", s.Name, *s.TimeZone)
				}
			}
			parsed, err := cron.ParseStandard(*s.Cron)
			if err != nil {
				return nil, fmt.Errorf("schedule %q: %q is not a time: it takes five fields, such as \"55 11 * * 5\" for Fridays at 11:55: %w", s.Name, *s.Cron, err)
			}
			fields, ok := parsed.(*cron.SpecSchedule)
			if !ok {
				return nil, fmt.Errorf("schedule %q: %q has no fixed times: use five fields, such as \"55 11 * * 5\" for Fridays at 11:55", s.Name, *s.Cron)
			}
			if s.TimeZone != nil || fields.Location == time.Local {
				fields.Location = location
			}
			e.cron, e.duration = parsed, time.Duration(*s.DurationSeconds)*time.Second
		case s.Start != nil && s.End != nil:
			e.start, e.end = s.Start.Time, s.End.Time
		default:
			return nil, fmt.Errorf("schedule %q has neither cron and durationSeconds nor start and end", s.Name)
		}
		c = append(c, e)
	}
	return c, nil
}

// At returns the greatest floor at a moment, and when it may be another one; the zero
// time for never.
func (c Calendar) At(now time.Time) (floor Floor, changes time.Time) {
	for _, e := range c {
		start, end := e.around(now)
		if !start.IsZero() && !start.After(now) && now.Before(end) {
			if e.replicas > floor.Replicas {
				floor = Floor{Replicas: e.replicas, Schedule: e.name, Until: end}
			}
			changes = earlier(changes, end)
			continue
		}
		if start.After(now) {
			changes = earlier(changes, start)
		}
	}
	return floor, changes
}

// around is the time of the schedule that is now or, else, comes next; zero when none comes.
func (e entry) around(now time.Time) (start, end time.Time) {
	if e.cron == nil {
		if !now.Before(e.end) {
			return time.Time{}, time.Time{}
		}
		return e.start, e.end
	}
	start = e.cron.Next(now.Add(-e.duration))
	if start.IsZero() || start.After(now) {
		return start, start.Add(e.duration)
	}
	// It may have started again before it ended.
	end = start.Add(e.duration)
	for next := e.cron.Next(start); !next.IsZero() && !next.After(now); next = e.cron.Next(next) {
		end = next.Add(e.duration)
	}
	return start, end
}

func earlier(a, b time.Time) time.Time {
	if a.IsZero() || b.Before(a) {
		return b
	}
	return a
}
