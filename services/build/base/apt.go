package base

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gantryhq/gantry/internal/hint"
)

// apt is a private installation of apt: its own sources, lists and cache, an empty
// list of what is installed, and nothing of the host but its programs and Debian's
// keys. What it downloads is checked against the archive's signature.
type apt struct {
	dir     string
	sources []aptSource
}

// newApt sets up apt below dir and reads the archives' indexes.
func newApt(ctx context.Context, dir string, sources []aptSource) (*apt, error) {
	for _, program := range []string{"apt-get", "apt-cache", "dpkg-deb", "tar"} {
		if _, err := exec.LookPath(program); err != nil {
			return nil, hint.Wrap(fmt.Errorf("packages are fetched with %s, which is not installed", program), "make the image on a Debian or Ubuntu machine")
		}
	}
	if _, err := os.Stat(keyring); err != nil {
		return nil, hint.Wrap(errors.New("Debian's archive keys are not installed: "+keyring), "apt-get install debian-archive-keyring")
	}
	a := &apt{dir: dir, sources: sources}
	for _, d := range []string{"etc/sources.list.d", "etc/apt.conf.d", "etc/preferences.d", "state/lists/partial", "cache/archives/partial", "debs"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			return nil, err
		}
	}
	config := fmt.Sprintf(`Dir::Etc %q;
Dir::State %q;
Dir::State::status %q;
Dir::Cache %q;
APT::Architecture %q;
APT::Architectures { %q; };
APT::Sandbox::User "root"; // others cannot pass the data directory
Acquire::Languages "none";
`, a.path("etc"), a.path("state"), a.path("status"), a.path("cache"), debianArch(), debianArch()) + hostAptDates(ctx)
	for name, body := range map[string]string{"etc/sources.list.d/debian.sources": deb822(sources), "apt.conf": config, "status": ""} {
		if err := os.WriteFile(a.path(name), []byte(body), 0o644); err != nil {
			return nil, err
		}
	}
	if _, err := a.run(ctx, dir, "apt-get", "update", "--error-on=any"); err != nil {
		return nil, err
	}
	return a, nil
}

func (a *apt) path(name string) string { return filepath.Join(a.dir, name) }

// debianArch is what Debian calls this machine's architecture.
func debianArch() string {
	if arch, ok := map[string]string{"386": "i386", "arm": "armhf", "ppc64le": "ppc64el"}[runtime.GOARCH]; ok {
		return arch
	}
	return runtime.GOARCH
}

// run runs a program of apt's with this configuration.
func (a *apt) run(ctx context.Context, dir, program string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return unix.Kill(-cmd.Process.Pid, unix.SIGKILL) }
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "APT_CONFIG="+a.path("apt.conf"), "LC_ALL=C", "DEBIAN_FRONTEND=noninteractive")
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w\n%s", program, args[0], err, lastLines(said.String()))
	}
	return out, nil
}

func lastLines(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(lines[max(0, len(lines)-10):], "\n")
}

// released is when the first of the sources was released last.
func (a *apt) released() (time.Time, error) {
	lists, err := filepath.Glob(a.path("state/lists/*_dists_" + a.sources[0].suite + "_*Release"))
	if err != nil || len(lists) == 0 {
		return time.Time{}, errors.Join(errors.New("apt left no Release file of "+a.sources[0].suite), err)
	}
	text, err := os.ReadFile(lists[0])
	if err != nil {
		return time.Time{}, err
	}
	return releaseDate(text)
}

// candidates returns "name=version" of what would be installed of each package, with
// those that they depend on when all are wanted, sorted.
func (a *apt) candidates(ctx context.Context, packages []string, all bool) ([]string, error) {
	args := append([]string{"--simulate", "--no-install-recommends", "install"}, packages...)
	if !all {
		return a.versions(ctx, packages)
	}
	out, err := a.run(ctx, a.dir, "apt-get", args...)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, line := range strings.Split(string(out), "\n") {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "Inst" {
			names = append(names, f[1])
		}
	}
	return a.versions(ctx, names)
}

// versions returns "name=version" of the candidates of packages.
func (a *apt) versions(ctx context.Context, packages []string) ([]string, error) {
	out, err := a.run(ctx, a.dir, "apt-cache", append([]string{"policy"}, packages...)...)
	if err != nil {
		return nil, err
	}
	var found []string
	var name string
	for _, line := range strings.Split(string(out), "\n") {
		if !strings.HasPrefix(line, " ") {
			name = strings.TrimSuffix(line, ":")
		}
		if v, ok := strings.CutPrefix(strings.TrimSpace(line), "Candidate: "); ok && v != "(none)" {
			found = append(found, name+"="+v)
		}
	}
	for _, p := range packages {
		if !slices.ContainsFunc(found, func(f string) bool { return strings.HasPrefix(f, p+"=") }) {
			return nil, hint.Wrap(fmt.Errorf("Debian %s has no package %s", a.sources[0].suite, p), "`apt-cache search WORD` finds names; virtual packages must be named by one that provides them")
		}
	}
	slices.Sort(found)
	return slices.Compact(found), nil
}

// download fetches packages ("name=version") and returns their files in order.
func (a *apt) download(ctx context.Context, packages []string, fetched func(n int)) ([]string, error) {
	var files []string
	for i, p := range packages {
		dir := filepath.Join(a.path("debs"), fmt.Sprintf("%04d", i))
		if err := os.Mkdir(dir, 0o755); err != nil {
			return nil, err
		}
		if _, err := a.run(ctx, dir, "apt-get", "download", p); err != nil {
			return nil, err
		}
		got, err := filepath.Glob(filepath.Join(dir, "*.deb"))
		if err != nil || len(got) != 1 {
			return nil, errors.Join(fmt.Errorf("apt-get download %s left %d packages", p, len(got)), err)
		}
		files = append(files, got[0])
		fetched(i + 1)
	}
	return files, nil
}
