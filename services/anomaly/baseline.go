package anomaly

import (
	"math"
	"slices"
	"time"
)

// The baseline of one signal, after Vallis, Hochenbaum, Kejariwal, "A Novel Technique for Long-Term Anomaly
// Detection in the Cloud" (HotCloud 2014, "S-H-ESD"): a seasonal part and a piecewise median are taken off, and
// what remains is measured in median absolute deviations (Hampel, "The Influence Curve and its Role in Robust
// Estimation", JASA 69, 1974), which up to half of the values may spoil without moving it far.
//
//   - seasonal: the median of what was usual at this time of day (ten minutes before to ten minutes after) on the last
//     six days, once three of them are known; 0 before.
//   - level: the median of what the last hour had beside the seasonal part, so that a busier day than usual is none
//     of an anomaly, and a lasting change becomes the new usual after half an hour.
//   - deviation: the larger of both parts' median absolute deviations, made comparable to a standard deviation, and
//     never less than what the kind of signal is granted (signal.grant): a flat line has a deviation of 0.
const (
	step        = time.Minute
	slot        = 10 * time.Minute
	slotsPerDay = int(24 * time.Hour / slot)
	daysKept    = 7
	lastHour    = 60

	leastMinutes = 20 // of the last hour, before anything is judged
	leastDays    = 3

	// madToSigma is 1/Φ⁻¹(3/4): Rousseeuw, Croux, "Alternatives to the Median Absolute Deviation", JASA 88, 1993.
	madToSigma = 1.4826
)

// day is the median of each slot of a day; NaN where nothing is known.
type day struct {
	number int64 // since 1970
	slots  [slotsPerDay]float32
}

// baseline is what is known of one signal. It takes 0.6 KB for each day that it knows.
type baseline struct {
	days    [daysKept]*day // by number
	minutes []minute       // the last hour, the oldest first
	open    int64          // slot that fills at the moment, counted since 1970
	filling []float64
}

type minute struct {
	value, seasonal float64 // seasonal is NaN while too few days are known
}

// usual is what a baseline expects.
type usual struct{ expected, deviation float64 }

// observe takes a value in, and returns what was to be expected before it came. Values come in the order of time.
func (b *baseline) observe(at time.Time, value float64, grant func(expected float64) float64) (usual, bool) {
	seasonal, spread := b.seasonal(at)
	u, known := b.expect(seasonal, spread)
	if len(b.minutes) == lastHour {
		b.minutes = slices.Delete(b.minutes, 0, 1)
	}
	b.minutes = append(b.minutes, minute{value, seasonal})
	b.fill(at, value)
	u.deviation = max(u.deviation, grant(u.expected))
	return u, known
}

func (b *baseline) expect(seasonal, spread float64) (usual, bool) {
	rest := make([]float64, 0, lastHour)
	for _, m := range b.minutes {
		switch {
		case math.IsNaN(seasonal):
			rest = append(rest, m.value)
		case !math.IsNaN(m.seasonal):
			rest = append(rest, m.value-m.seasonal)
		}
	}
	if math.IsNaN(seasonal) {
		seasonal, spread = 0, 0
	}
	if len(rest) < leastMinutes {
		return usual{}, false
	}
	level, mad := median(rest)
	return usual{expected: max(seasonal+level, 0), deviation: max(madToSigma*mad, spread)}, true
}

// seasonal is what is usual at this time of day, and how far days differ in it.
func (b *baseline) seasonal(at time.Time) (value, deviation float64) {
	here := slotOf(at)
	var values []float64
	days := 0
	for back := int64(1); back < daysKept; back++ {
		before := len(values)
		for near := int64(-1); near <= 1; near++ {
			if v := b.at(here - back*int64(slotsPerDay) + near); !math.IsNaN(v) {
				values = append(values, v)
			}
		}
		if len(values) > before {
			days++
		}
	}
	if days < leastDays {
		return math.NaN(), 0
	}
	m, mad := median(values)
	return m, madToSigma * mad
}

func slotOf(at time.Time) int64 { return at.Unix() / int64(slot/time.Second) }

// at is the median of a slot.
func (b *baseline) at(number int64) float64 {
	d := b.days[number/int64(slotsPerDay)%daysKept]
	if d == nil || d.number != number/int64(slotsPerDay) {
		return math.NaN()
	}
	return float64(d.slots[number%int64(slotsPerDay)])
}

// fill adds a value to the slot of its time.
func (b *baseline) fill(at time.Time, value float64) {
	number := slotOf(at)
	if number != b.open {
		b.open, b.filling = number, b.filling[:0]
	}
	b.filling = append(b.filling, value)
	b.learn(number, middle(slices.Clone(b.filling)))
}

// learn notes the median of a slot.
func (b *baseline) learn(number int64, value float64) {
	n := number / int64(slotsPerDay)
	d := b.days[n%daysKept]
	if d == nil || d.number < n {
		d = &day{number: n}
		for i := range d.slots {
			d.slots[i] = float32(math.NaN())
		}
		b.days[n%daysKept] = d
	}
	if d.number == n {
		d.slots[number%int64(slotsPerDay)] = float32(value)
	}
}

// median returns the median and the median absolute deviation from it. It sorts values.
func median(values []float64) (m, mad float64) {
	m = middle(values)
	for i, v := range values {
		values[i] = math.Abs(v - m)
	}
	return m, middle(values)
}

func middle(values []float64) float64 {
	slices.Sort(values)
	n := len(values)
	if n%2 == 1 {
		return values[n/2]
	}
	return (values[n/2-1] + values[n/2]) / 2
}
