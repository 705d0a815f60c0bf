package bench

import (
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/gantryhq/gantry/internal/testenv"
	"github.com/gantryhq/gantry/test/instance"
)

const (
	// delivery are the components of `gantry serve` between a commit and what runs.
	delivery = "trust,registry,scanning,image facts,pipelines,docker"
	atRest   = 30 * time.Second
)

// BenchmarkDeliveryAtRest measures what the delivery chain adds to an idle `gantry serve`:
// in turns with one that has none of it, each half a minute after it was started again on
// its data directory, and for half a minute. Memory counts on a busy machine too.
func BenchmarkDeliveryAtRest(b *testing.B) {
	testenv.NeedContainers(b)
	const rounds = 3
	variants := map[string][]string{"with": nil, "without": {"--without", delivery}}
	type figures struct{ anonymous, proportional, processor []float64 }
	for b.Loop() {
		found := map[string]*figures{"with": {}, "without": {}}
		for range rounds {
			for name, args := range variants {
				b.Run("", func(b *testing.B) { // a scope of its own, so that each instance ends before the next starts
					in := instance.Start(b, instance.Options{Args: args})
					in.Stop(b, syscall.SIGTERM)
					in.Serve(b)
					time.Sleep(atRest)
					before := processes()[in.PID()].cpu
					time.Sleep(atRest)
					f := found[name]
					f.processor = append(f.processor, 100*(processes()[in.PID()].cpu-before).Seconds()/atRest.Seconds())
					f.anonymous = append(f.anonymous, memorySizes("Anonymous", in.PID()))
					f.proportional = append(f.proportional, memorySizes("Pss", in.PID()))
				})
			}
		}
		for name, f := range found {
			b.Logf("serve %s the delivery chain: %.1f %% of a core, anonymous memory %.0f MB, with its share of files %.0f MB (medians of %v, %v, %v)",
				name, middle(f.processor), middle(f.anonymous), middle(f.proportional), f.processor, f.anonymous, f.proportional)
		}
		b.ReportMetric(middle(found["with"].anonymous)-middle(found["without"].anonymous), "added-anonymous-MB")
		b.ReportMetric(middle(found["with"].proportional)-middle(found["without"].proportional), "added-pss-MB")
	}
}

func middle(all []float64) float64 {
	sorted := slices.Sorted(slices.Values(all))
	return sorted[len(sorted)/2]
}
