package anomaly

import (
	"math"
	"time"
)

// A signal is anomalous when it was far from its baseline in three of the last five minutes, and is over when it
// was near for five minutes. Six deviations are far: with the half of it, and a single minute, as in a
// textbook, fifty workloads would be anomalous some hundred times a day.
const (
	far       = 6
	near      = far / 2
	window    = 5
	farWithin = 3
)

// verdict follows one signal's scores.
type verdict struct {
	last      [window]time.Time // minutes that were far, in a ring
	next      int
	calm      int // minutes near the baseline without a break
	anomalous bool
}

// judge takes the score of a minute in. It returns whether the signal is anomalous, and since when.
func (v *verdict) judge(at time.Time, score float64, both bool) (anomalous bool, since time.Time) {
	magnitude := score
	if both {
		magnitude = math.Abs(score)
	}
	v.last[v.next] = time.Time{}
	if magnitude >= far {
		v.last[v.next] = at
	}
	v.next = (v.next + 1) % window
	v.calm++
	if magnitude >= near {
		v.calm = 0
	}
	count := 0
	for _, t := range v.last {
		if t.IsZero() {
			continue
		}
		count++
		if since.IsZero() || t.Before(since) {
			since = t
		}
	}
	if count >= farWithin {
		v.anomalous = true
	} else if v.calm >= window {
		v.anomalous = false
	}
	return v.anomalous, since
}
