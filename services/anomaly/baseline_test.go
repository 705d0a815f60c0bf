package anomaly

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
	"time"
)

var begin = time.Date(2026, 3, 2, 0, 0, 0, 0, time.UTC)

// poisson draws how many of something happen in a minute at a rate per second, as a rate.
func poisson(r *rand.Rand, rate float64) float64 {
	mean := rate * 60
	if mean > 500 {
		return max(0, mean+math.Sqrt(mean)*r.NormFloat64()) / 60
	}
	n, p, limit := 0, 1.0, math.Exp(-mean)
	for p *= r.Float64(); p > limit; p *= r.Float64() {
		n++
	}
	return float64(n) / 60
}

// daily is a load that has a day and a night, three times as busy at its peak.
func daily(at time.Time, mean float64) float64 {
	hours := float64(at.Unix()%86400) / 3600
	return mean * (1 - 0.5*math.Cos(2*math.Pi*(hours-4)/24))
}

// run watches a signal from a minute on, and returns the minutes in which an anomaly began.
func run(sig *signal, minutes int, value func(at time.Time, i int) float64) (began []int) {
	var b baseline
	var v verdict
	was := false
	for i := range minutes {
		at := begin.Add(time.Duration(i) * step)
		x := value(at, i)
		u, known := b.observe(at, x, sig.grant)
		score := 0.0
		if known {
			score = (x - u.expected) / u.deviation
		}
		is, _ := v.judge(at, score, sig.both)
		if is && !was {
			began = append(began, i)
		}
		was = is
	}
	return began
}

// Eight days of sixteen services, with nights, noise, bursts of a minute and busier days, are none of an anomaly.
func TestHealthyDaysAreNotAnomalous(t *testing.T) {
	const days = 8
	total := 0
	for seed := range uint64(16) {
		r := rand.New(rand.NewPCG(seed, 1))
		mean := math.Pow(10, -1+4*r.Float64()) // from one request in ten seconds to a thousand a second
		busier := make([]float64, days)
		for i := range busier {
			busier[i] = 0.8 + 0.4*r.Float64()
		}
		began := run(signalNamed("requests"), days*24*60, func(at time.Time, i int) float64 {
			rate := daily(at, mean) * busier[i/(24*60)]
			if r.IntN(500) == 0 {
				rate *= 1.6
			}
			return poisson(r, rate)
		})
		if len(began) > 0 {
			t.Logf("service %d with %.3g requests/s: anomalies began in minutes %v", seed, mean, began)
		}
		total += len(began)
	}
	t.Logf("%d false anomalies in 16 services and %d days", total, days)
	if total > 2 {
		t.Errorf("%d false anomalies; one in 64 days of a service is the most", total)
	}
}

// What is injected after some days, and after an hour, is told within minutes.
func TestWhatIsUnusualIsTold(t *testing.T) {
	tests := []struct {
		signal string
		usual  func(r *rand.Rand, at time.Time) float64
		then   func(x float64) float64
		within int // minutes
	}{
		{"requests", func(r *rand.Rand, at time.Time) float64 { return poisson(r, daily(at, 50)) }, func(x float64) float64 { return x * 3 }, 4},
		{"requests", func(r *rand.Rand, at time.Time) float64 { return poisson(r, daily(at, 50)) }, func(float64) float64 { return 0 }, 4},
		{"errors", func(r *rand.Rand, at time.Time) float64 { return poisson(r, 0.01) }, func(float64) float64 { return 2 }, 4},
		{"latency", func(r *rand.Rand, at time.Time) float64 { return 0.03 * math.Exp(0.1*r.NormFloat64()) }, func(x float64) float64 { return 4 * x }, 4},
		{"cpu", func(r *rand.Rand, at time.Time) float64 { return daily(at, 0.3) * (1 + 0.05*r.NormFloat64()) }, func(float64) float64 { return 2 }, 4},
		{"memory", func(r *rand.Rand, at time.Time) float64 { return 200e6 + 2e6*r.NormFloat64() }, func(x float64) float64 { return 2 * x }, 4},
		{"restarts", func(*rand.Rand, time.Time) float64 { return 0 }, func(float64) float64 { return 3 }, 4},
		{"log_lines", func(r *rand.Rand, at time.Time) float64 { return poisson(r, 3) }, func(float64) float64 { return 60 }, 4},
	}
	for _, at := range []int{90, 5*24*60 + 13*60} {
		for _, tt := range tests {
			t.Run(fmt.Sprintf("%s after %d minutes", tt.signal, at), func(t *testing.T) {
				for seed := range uint64(10) {
					r := rand.New(rand.NewPCG(seed, 2))
					began := run(signalNamed(tt.signal), at+15, func(when time.Time, i int) float64 {
						x := tt.usual(r, when)
						if i >= at {
							return tt.then(x)
						}
						return x
					})
					if len(began) != 1 || began[0] < at || began[0] >= at+tt.within {
						t.Errorf("seed %d: anomalies began in minutes %v, one within %d minutes of %d was expected", seed, began, tt.within, at)
					}
				}
			})
		}
	}
}

// At a time of day that is always busy a rise is usual; without the seasonal part it would not be.
func TestWhatComesEveryDayIsUsual(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 3))
	sale := func(at time.Time) bool { return at.Hour() == 12 && at.Minute() < 40 }
	began := run(signalNamed("requests"), 6*24*60, func(at time.Time, _ int) float64 {
		if sale(at) {
			return poisson(r, 200)
		}
		return poisson(r, 20)
	})
	for _, i := range began {
		if day := i / (24 * 60); day >= 4 {
			t.Errorf("the daily sale is anomalous on day %d", day)
		}
	}
	if len(began) == 0 {
		t.Error("the first sale was not told of")
	}
}
