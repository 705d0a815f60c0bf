package decision

import "time"

// bucket is how exactly a Series knows when something was.
const bucket = 100 * time.Millisecond

// Series is a quantity over the time of a window: either a level, such as requests in flight, of
// which Mean is the average over time, or events, such as requests, of which Mean is the rate
// per second. It takes 8 bytes for each tenth of a second. Time must not go backwards.
type Series struct {
	origin time.Time // of the first reading
	last   time.Time
	level  float64
	sums   []float64 // by bucket number, in a circle
}

// NewSeries makes a series that remembers a window.
func NewSeries(window time.Duration) *Series {
	return &Series{sums: make([]float64, int(window/bucket)+2)}
}

// Window is how far the series reaches back.
func (s *Series) Window() time.Duration { return time.Duration(len(s.sums)-2) * bucket }

// Set says that the level is v from now on.
func (s *Series) Set(now time.Time, v float64) {
	s.advance(now)
	s.level = v
}

// Add says that n events have happened just now.
func (s *Series) Add(now time.Time, n float64) {
	s.advance(now)
	s.sums[s.index(now)] += n
}

func (s *Series) number(t time.Time) int64 { return int64(t.Sub(s.origin) / bucket) }
func (s *Series) index(t time.Time) int    { return int(s.number(t) % int64(len(s.sums))) }

// advance extends the present level up to now.
func (s *Series) advance(now time.Time) {
	if s.origin.IsZero() {
		s.origin, s.last = now, now
		return
	}
	if !now.After(s.last) {
		return
	}
	if gap := now.Sub(s.last); gap > s.Window()+bucket {
		// All that is remembered is of this level.
		clear(s.sums)
		s.last = now.Add(-s.Window() - bucket)
	}
	for s.last.Before(now) {
		n := s.number(s.last)
		end := s.origin.Add(time.Duration(n+1) * bucket)
		if end.After(now) {
			end = now
		}
		s.sums[n%int64(len(s.sums))] += s.level * end.Sub(s.last).Seconds()
		s.last = end
		if s.number(end) > n {
			s.sums[s.number(end)%int64(len(s.sums))] = 0
		}
	}
}

// Mean is the average over the time before now, but no longer than the series has been read.
func (s *Series) Mean(now time.Time, over time.Duration) float64 {
	if s.origin.IsZero() {
		return 0
	}
	s.advance(now)
	n := s.number(now)
	buckets := min(int64(over/bucket), int64(len(s.sums)-1))
	first := max(0, n-buckets+1)
	var sum float64
	for i := first; i <= n; i++ {
		sum += s.sums[i%int64(len(s.sums))]
	}
	covered := max(now.Sub(s.origin.Add(time.Duration(first)*bucket)), bucket)
	return sum / covered.Seconds()
}

// Settled tells whether the series has been read for a time.
func (s *Series) Settled(now time.Time, over time.Duration) bool {
	return !s.origin.IsZero() && now.Sub(s.origin) >= over
}
