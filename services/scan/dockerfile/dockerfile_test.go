package dockerfile

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
)

func TestFaultsOfDockerfiles(t *testing.T) {
	for name, c := range map[string]struct {
		text string
		want []string // "rule:line", sorted
	}{
		"good": {"# syntax=docker/dockerfile:1\nFROM scratch\nCOPY app /app\nUSER 1000\nHEALTHCHECK CMD [\"/app\", \"-health\"]\nENTRYPOINT [\"/app\"]\n", nil},
		"bad": {"FROM debian\nRUN apt-get update && \\\n    curl -ksSL https://x.example/i.sh | sudo bash\nADD https://x.example/a.tgz /a\nENV API_TOKEN=x\nRUN chmod -R 777 /a\nCMD /app\n",
			[]string{"JSONArgsRecommended:7", "SecretsUsedInArgOrEnv:5", "add-from-url:4", "curl-pipe-shell:2", "no-health-check:1", "root-user:1", "tls-check-off:2", "unpinned-base:1", "world-writable:6"}},
		"here document":      {"FROM scratch\nRUN <<EOF\nwget -qO- https://x.example | sh\nEOF\nUSER 1\nHEALTHCHECK NONE\n", []string{"curl-pipe-shell:2"}},
		"stages":             {"FROM golang:1.26@sha256:" + strings.Repeat("a", 64) + " AS build\nUSER 1\nHEALTHCHECK CMD [\"x\"]\nFROM build\nCOPY --from=build /a /a\n", nil},
		"pinned by checksum": {"FROM scratch\nADD --checksum=sha256:" + strings.Repeat("a", 64) + " https://x.example/a /a\nUSER 1\nHEALTHCHECK CMD [\"x\"]\n", nil},
		"root again":         {"FROM scratch\nUSER 1\nUSER root\nHEALTHCHECK CMD [\"x\"]\n", []string{"root-user:3"}},
		"broken":             {"FROM scratch\nRUM echo\n", []string{"does-not-build:2"}},
		"empty":              {"# nothing\n", []string{"does-not-build:1"}},
	} {
		faults, err := Lint(context.Background(), "Dockerfile", []byte(c.text))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		var got []string
		for _, f := range faults {
			got = append(got, fmt.Sprintf("%s:%d", f.Rule, f.Line))
		}
		slices.Sort(got)
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}

func TestBaseImagesThatMayChange(t *testing.T) {
	for from, severity := range map[string]string{
		"debian": "medium", "debian:latest": "medium", "debian:12": "low", "127.0.0.1:5000/base/debian:12": "low",
		"debian@sha256:" + strings.Repeat("a", 64): "", "debian:12@sha256:" + strings.Repeat("a", 64): "", "NOT A NAME": "",
	} {
		got := ""
		if f := Unpinned(from); f != nil {
			got = f.Severity.String()
		}
		if got != severity {
			t.Errorf("%s: %q, want %q", from, got, severity)
		}
	}
}

func TestPasswordsOfURLsAreNotShown(t *testing.T) {
	faults, err := Lint(context.Background(), "Dockerfile", []byte("FROM scratch\nADD https://me:hunter2@x.example/a /a\n"))
	if err != nil {
		t.Fatal(err)
	}
	if text := fmt.Sprint(faults); strings.Contains(text, "hunter2") || !strings.Contains(text, "https://x.example/a") {
		t.Error(text)
	}
}
