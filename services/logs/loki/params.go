package loki

import (
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/common/model"
)

const (
	defaultLimit = 100
	maxLimit     = 5000
	defaultRange = time.Hour
)

// span is the time that is asked about: start and end, or what is usual.
func (a *asked) span(usual time.Duration) (start, end time.Time, err error) {
	end = a.now
	if t := a.form.Get("end"); t != "" {
		if end, err = parseTime("end", t); err != nil {
			return
		}
	}
	if t := a.form.Get("since"); t != "" {
		if usual, err = parseDuration("since", t); err != nil {
			return
		}
	}
	start = end.Add(-usual)
	if t := a.form.Get("start"); t != "" {
		if start, err = parseTime("start", t); err != nil {
			return
		}
	}
	if end.Before(start) {
		err = bad("the end is before the start")
	}
	return
}

// parseTime reads nanoseconds or seconds since 1970, or a time as in RFC 3339.
func parseTime(name, text string) (time.Time, error) {
	if n, err := strconv.ParseInt(text, 10, 64); err == nil {
		if len(strings.TrimPrefix(text, "-")) <= 10 {
			return time.Unix(n, 0), nil
		}
		return time.Unix(0, n), nil
	}
	if f, err := strconv.ParseFloat(text, 64); err == nil && math.Abs(f) < 1e10 {
		whole, part := math.Modf(f)
		return time.Unix(int64(whole), int64(part*1e9)), nil
	}
	t, err := time.Parse(time.RFC3339Nano, text)
	if err != nil || t.Year() < 1970 || t.Year() > 2200 {
		return t, bad("%s %q is not a time: it may be nanoseconds or seconds since 1970, or as in RFC 3339", name, text)
	}
	return t, nil
}

// parseDuration reads a length of time such as 5m, or seconds.
func parseDuration(name, text string) (time.Duration, error) {
	if f, err := strconv.ParseFloat(text, 64); err == nil && f > 0 && f < 1e9 {
		return time.Duration(f * float64(time.Second)), nil
	}
	if d, err := time.ParseDuration(text); err == nil && d > 0 {
		return d, nil
	}
	d, err := model.ParseDuration(text)
	if err != nil || d <= 0 {
		return 0, bad("%s %q is not a length of time such as 30s or 5m", name, text)
	}
	return time.Duration(d), nil
}

func (a *asked) limit() (int, error) {
	text := a.form.Get("limit")
	if text == "" {
		return defaultLimit, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 || n > maxLimit {
		return 0, bad("limit %q is not a number from 1 to %d", text, maxLimit)
	}
	return n, nil
}

func (a *asked) forward() (bool, error) {
	switch d := strings.ToLower(a.form.Get("direction")); d {
	case "", "backward":
		return false, nil
	case "forward":
		return true, nil
	default:
		return false, bad("direction %q is neither backward nor forward", d)
	}
}

// step is the time between two numbers; without it there are at most 250.
func (a *asked) step(start, end time.Time) (time.Duration, error) {
	if text := a.form.Get("step"); text != "" {
		return parseDuration("step", text)
	}
	return max(time.Second, (end.Sub(start) / 250).Truncate(time.Second)), nil
}
