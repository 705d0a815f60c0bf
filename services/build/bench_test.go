package build

import (
	"context"
	"testing"
)

// BenchmarkBuildWithoutChanges is what `gantry up` pays per image when nothing
// changed, with a warm worker.
func BenchmarkBuildWithoutChanges(b *testing.B) {
	e := newEnv(b)
	dir := e.context(b, map[string]string{
		"Dockerfile": "FROM " + e.host + "/base/busybox AS build\nRUN echo x > /y\nFROM scratch\nCOPY --from=build /y /\n",
	})
	opt := Options{ContextDir: dir, Tags: []string{e.host + "/bench/app:1"}, Push: true}
	e.build(b, opt)
	for b.Loop() {
		if _, err := e.client.Build(context.Background(), opt); err != nil {
			b.Fatal(err)
		}
	}
}
