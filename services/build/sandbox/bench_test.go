package sandbox

import (
	"log/slog"
	"os"
	"testing"

	"github.com/moby/buildkit/util/network"

	"github.com/gantryhq/gantry/internal/testenv"
)

// BenchmarkNetwork is what each step of a build pays for a network of its own.
func BenchmarkNetwork(b *testing.B) {
	testenv.NeedContainers(b)
	const name = "gantry-build-00be7c40"
	p, err := newProvider(Config{Name: name, Log: slog.Default()})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		p.close()
		if err := Remove(name); err != nil {
			b.Error(err)
		}
		_ = os.Remove("/run/" + name)
	})
	for b.Loop() {
		n, err := p.New(b.Context(), "", network.NamespaceOptions{})
		if err != nil {
			b.Fatal(err)
		}
		b.StopTimer() // the end is not waited for
		if err := n.Close(); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}
