package console

import (
	"fmt"
	"net/http/cgi"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gantryhq/gantry/test/instance"
)

// deliver gives the pages of builds and images something to show: a pipeline of which one build fails, and
// a database of vulnerabilities with made-up ones in packages of the shop's images.
func deliver(t *testing.T, in *instance.Instance) {
	dir := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for i, v := range []struct{ of, fixed, vector, summary string }{
		{"openssl", "9:1", "AV:N/AC:L/PR:N/UI:N/S:U/C:H/I:H/A:H", "A made-up flaw: reads beyond the end of a certificate"},
		{"glibc", "9:1", "AV:N/AC:H/PR:N/UI:N/S:U/C:H/I:H/A:H", "A made-up flaw: a long name overflows a buffer"},
		{"redis", "9:1", "AV:N/AC:L/PR:L/UI:N/S:U/C:N/I:N/A:H", "A made-up flaw: a script ends the server"},
		{"zlib", "", "AV:L/AC:H/PR:L/UI:N/S:U/C:L/I:N/A:N", "A made-up flaw: a header is read twice"},
		{"perl", "9:1", "AV:L/AC:L/PR:L/UI:R/S:U/C:L/I:L/A:N", "A made-up flaw: a path is not checked"},
	} {
		events := `{"introduced": "0"}`
		if v.fixed != "" {
			events += fmt.Sprintf(`, {"fixed": %q}`, v.fixed)
		}
		write(fmt.Sprintf("records/%d.json", i), fmt.Sprintf(`{"id": "DEBIAN-CVE-2026-000%[1]d", "upstream": ["CVE-2026-000%[1]d"], "modified": "2026-01-0%[2]dT00:00:00Z", "summary": %[3]q,
			"severity": [{"type": "CVSS_V3", "score": "CVSS:3.1/%[4]s"}],
			"affected": [{"package": {"ecosystem": "Debian:12", "name": %[5]q}, "ranges": [{"type": "ECOSYSTEM", "events": [%[6]s]}]}]}`, i, i+1, v.summary, v.vector, v.of, events))
	}
	in.Run(t, "scan", "db", "import", filepath.Join(dir, "records"))

	git := func(args ...string) {
		t.Helper()
		cmd := exec.Command("git", append([]string{"-C", filepath.Join(dir, "site"), "-c", "user.name=Ada", "-c", "user.email=ada@example.com"}, args...)...)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("git %v: %v\n%s", args, err, out)
		}
	}
	const dockerfile = "ARG GANTRY_REGISTRY\nFROM ${GANTRY_REGISTRY}/base/busybox:latest\nCOPY index.html /www/\nCMD [\"httpd\", \"-f\", \"-p\", \"8080\", \"-h\", \"/www\"]\n"
	write("site/Dockerfile", dockerfile)
	write("site/index.html", "Hello\n")
	git("init", "-q", "-b", "main")
	commit := func(message string) { git("add", "-A"); git("commit", "-q", "-m", message) }
	commit("Greet who comes")
	libexec, err := exec.Command("git", "--exec-path").Output()
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(&cgi.Handler{
		Path: filepath.Join(strings.TrimSpace(string(libexec)), "git-http-backend"),
		Env:  []string{"GIT_PROJECT_ROOT=" + dir, "GIT_HTTP_EXPORT_ALL=1", "GIT_CONFIG_GLOBAL=/dev/null"},
	})
	t.Cleanup(server.Close)
	in.Run(t, "pipeline", "create", "site", "-n", "shop", "--repo", server.URL+"/site/.git", "--path", "", "--image", "site=.")
	run := func(fails bool) {
		t.Helper()
		out, err := exec.Command(in.Program, "--data-dir", in.DataDir, "pipeline", "run", "site", "-n", "shop").CombinedOutput()
		if (err != nil) != fails {
			t.Fatalf("run the pipeline: %v\n%s", err, out)
		}
	}
	run(false)
	write("site/Dockerfile", dockerfile+"RUN test -e /www/terms.html || { echo the terms are missing; exit 1; }\n")
	commit("Show the terms")
	run(true)
	write("site/Dockerfile", dockerfile)
	write("site/index.html", "Hello, and welcome\n")
	commit("Welcome who comes")
	run(false)
}
