package base

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gantryhq/gantry/internal/hint"
)

// DebianOptions say how to make a Debian image.
type DebianOptions struct {
	Tag      string   // where to push it: "127.0.0.1:5000/base/debian:12"
	Suite    string   // "bookworm"; "" means the host's, or bookworm
	Include  []string // further packages
	Mirror   string   // "" means the mirror this host's apt uses
	WorkDir  string   // for temporary files, on a file system that allows devices; "" means the system's
	Refresh  bool     // make it even if it is there
	Progress Progress
}

const defaultSuite = "bookworm"

var manSection = regexp.MustCompile(`^man[1-9]$`)

var validPackage = regexp.MustCompile(`^[a-z0-9][a-z0-9+.-]+$`)

// Debian makes a minimal Debian image with debootstrap, with the security
// updates of the day, and pushes it. It takes about a minute and needs root.
func Debian(ctx context.Context, opt DebianOptions) (*Result, error) {
	ref, err := parseTag(opt.Tag)
	if err != nil {
		return nil, err
	}
	if opt.Suite == "" {
		opt.Suite = HostSuite()
	}
	for _, word := range append([]string{opt.Suite}, opt.Include...) {
		if !validPackage.MatchString(word) {
			return nil, fmt.Errorf("%q is not the name of a Debian suite or package", word)
		}
	}
	sources, err := hostSources("/etc/apt", opt.Suite)
	if err != nil {
		return nil, err
	}
	if opt.Mirror != "" {
		sources[0].uri = strings.TrimSuffix(opt.Mirror, "/")
	}
	slices.Sort(opt.Include)
	inputs := inputsDigest("debian", opt.Suite, strings.Join(opt.Include, ","), deb822(sources))
	if !opt.Refresh {
		if r, err := existing(ctx, ref, inputs); r != nil || err != nil {
			return r, err
		}
	}
	if err := canBootstrap(); err != nil {
		return nil, err
	}
	dir, remove, err := workDir(opt.WorkDir)
	if err != nil {
		return nil, err
	}
	defer remove()
	b := &bootstrap{opt: opt, sources: sources, root: filepath.Join(dir, "root"), layer: filepath.Join(dir, "layer.tar.gz")}
	if err := b.run(ctx); err != nil {
		return nil, fmt.Errorf("make Debian %s image: %w", opt.Suite, err)
	}
	opt.Progress.say("pushing %s", ref)
	img := &image{
		ref: ref, inputs: inputs, layer: b.layer, created: b.newest,
		title: "debian", version: b.version, source: sources[0].uri + " " + opt.Suite,
		packages: b.packages, cmd: []string{"bash"},
		recipe: &Recipe{Kind: "debian", Suite: opt.Suite, Packages: opt.Include},
	}
	return img.push(ctx)
}

// HostSuite is the Debian suite this host runs, or the default one.
func HostSuite() string {
	blob, err := os.ReadFile("/etc/os-release")
	if err != nil {
		return defaultSuite
	}
	fields := map[string]string{}
	for _, line := range strings.Split(string(blob), "\n") {
		if k, v, ok := strings.Cut(line, "="); ok {
			fields[k] = strings.Trim(v, `"`)
		}
	}
	if fields["ID"] == "debian" && fields["VERSION_CODENAME"] != "" {
		return fields["VERSION_CODENAME"]
	}
	return defaultSuite
}

// SuiteVersion is the number that a suite's images are tagged with: "12" for
// bookworm. Suites without one are tagged with their name.
func SuiteVersion(suite string) string {
	if v, ok := map[string]string{"bullseye": "11", "bookworm": "12", "trixie": "13", "forky": "14"}[suite]; ok {
		return v
	}
	return suite
}

func canBootstrap() error {
	if os.Geteuid() != 0 {
		return hint.Wrap(errors.New("a Debian base image is made by debootstrap, which needs root"), "run the command with sudo")
	}
	if _, err := exec.LookPath("debootstrap"); err != nil {
		return hint.Wrap(errors.New("a Debian base image is made by debootstrap, which is not installed"), "apt-get install debootstrap")
	}
	if _, err := os.Stat(keyring); err != nil {
		return hint.Wrap(errors.New("Debian's archive keys are not installed: "+keyring), "apt-get install debian-archive-keyring")
	}
	return nil
}

// bootstrap makes the root directory of one image and its layer.
type bootstrap struct {
	opt     DebianOptions
	sources []aptSource
	root    string
	layer   string

	newest   time.Time // of the suite's release: nothing in the layer is newer
	version  string
	packages []string
}

func (b *bootstrap) run(ctx context.Context) error {
	for _, step := range []func(context.Context) error{b.debootstrap, b.readRelease, b.configureApt, b.upgrade, b.tidy} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	b.opt.Progress.say("packing %d packages", len(b.packages))
	l, err := newLayerWriter(b.layer, b.newest)
	if err != nil {
		return err
	}
	return errors.Join(l.tree(b.root, leftOut), l.close())
}

func (b *bootstrap) debootstrap(ctx context.Context) error {
	b.opt.Progress.say("bootstrapping Debian %s from %s", b.opt.Suite, b.sources[0].uri)
	args := []string{"--variant=minbase", "--keyring=" + keyring}
	include := append([]string{"ca-certificates"}, b.opt.Include...)
	args = append(args, "--include="+strings.Join(include, ","), b.opt.Suite, b.root, b.sources[0].uri)
	return b.command(ctx, "debootstrap", args...)
}

// readRelease takes the time of the suite's last release as the image's.
func (b *bootstrap) readRelease(context.Context) error {
	lists, err := filepath.Glob(filepath.Join(b.root, "var/lib/apt/lists/*_dists_"+b.opt.Suite+"_Release"))
	if err != nil || len(lists) == 0 {
		return errors.Join(errors.New("debootstrap left no Release file"), err)
	}
	blob, err := os.ReadFile(lists[0])
	if err != nil {
		return err
	}
	b.newest, err = releaseDate(blob)
	return err
}

// releaseDate reads when a suite was released last.
func releaseDate(release []byte) (time.Time, error) {
	for _, line := range strings.Split(string(release), "\n") {
		if date, ok := strings.CutPrefix(line, "Date: "); ok {
			return time.Parse(time.RFC1123, strings.TrimSpace(date))
		}
	}
	return time.Time{}, errors.New("the suite's Release file has no date")
}

// policyNoServices keeps packages from starting services while they are installed.
const policyNoServices = "#!/bin/sh\nexit 101\n"

// lessFiles makes dpkg leave out what the image leaves out, also later.
const lessFiles = `# Written by gantry base: documentation and translations are left out.
path-exclude /usr/share/doc/*
path-include /usr/share/doc/*/copyright
path-exclude /usr/share/man/*
path-exclude /usr/share/info/*
path-exclude /usr/share/lintian/*
path-exclude /usr/share/locale/*
`

// slimApt keeps package lists and archives out of layers.
const slimApt = `// Written by gantry base: keep downloads out of image layers.
APT::Keep-Downloaded-Packages "false";
Acquire::GzipIndexes "true";
Acquire::Languages "none";
Dir::Cache::pkgcache "";
Dir::Cache::srcpkgcache "";
`

func (b *bootstrap) configureApt(ctx context.Context) error {
	if err := os.Remove(filepath.Join(b.root, "etc/apt/sources.list")); err != nil && !os.IsNotExist(err) {
		return err
	}
	for path, file := range map[string]struct {
		body string
		mode os.FileMode
	}{
		"etc/apt/sources.list.d/debian.sources": {deb822(b.sources), 0o644},
		"etc/apt/apt.conf.d/50gantry":           {slimApt + hostAptDates(ctx), 0o644},
		"etc/dpkg/dpkg.cfg.d/50gantry":          {lessFiles, 0o644},
		"usr/sbin/policy-rc.d":                  {policyNoServices, 0o755},
	} {
		path = filepath.Join(b.root, path)
		if err := os.WriteFile(path, []byte(file.body), file.mode); err != nil {
			return err
		}
	}
	return nil
}

// hostAptDates carries over that the host's apt does not check the age of its
// mirror, as is set for snapshots of an archive.
func hostAptDates(ctx context.Context) string {
	out, err := exec.CommandContext(ctx, "apt-config", "dump").Output()
	if err != nil {
		return "" // no apt here: the defaults are right
	}
	var keep strings.Builder
	for _, line := range strings.Split(string(out), "\n") {
		if strings.HasPrefix(line, "Acquire::Check-Valid-Until ") || strings.HasPrefix(line, "Acquire::Check-Date ") {
			keep.WriteString(line + "\n")
		}
	}
	return keep.String()
}

// upgrade installs the updates that came after the suite's release.
func (b *bootstrap) upgrade(ctx context.Context) error {
	b.opt.Progress.say("installing updates")
	for _, args := range [][]string{{"update"}, {"dist-upgrade", "--yes", "--no-install-recommends"}, {"clean"}} {
		full := append([]string{b.root, "/usr/bin/env", "-i", "PATH=" + defaultPath, "LC_ALL=C", "DEBIAN_FRONTEND=noninteractive",
			"apt-get", "--quiet", "--option=Dpkg::Options::=--force-confold"}, args...)
		if err := b.command(ctx, "chroot", full...); err != nil {
			return err
		}
	}
	return nil
}

// command runs a program in a mount namespace of its own, so that whatever it
// mounts is gone when it ends, however it ends.
func (b *bootstrap) command(ctx context.Context, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true, Unshareflags: unix.CLONE_NEWNS}
	cmd.Cancel = func() error { return unix.Kill(-cmd.Process.Pid, unix.SIGKILL) }
	cmd.Env = append(os.Environ(), "LC_ALL=C", "DEBIAN_FRONTEND=noninteractive")
	r, w := io.Pipe()
	cmd.Stdout, cmd.Stderr = w, w
	tail := make(chan string, 1)
	go func() { tail <- b.relay(r) }()
	err := cmd.Run()
	_ = w.Close() // of a pipe in memory: never fails
	said := <-tail
	if err != nil {
		return fmt.Errorf("%s: %w\n%s", name, err, said)
	}
	return nil
}

// relay passes a program's output on as progress and returns its last lines.
func (b *bootstrap) relay(r io.Reader) string {
	const keep = 10
	var last []string
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		line := strings.TrimPrefix(lines.Text(), "I: ")
		if line == "" {
			continue
		}
		b.opt.Progress.say("%s", line)
		if last = append(last, line); len(last) > keep {
			last = last[1:]
		}
	}
	_, _ = io.Copy(io.Discard, r) // a line longer than the scanner takes must not block the program
	return strings.Join(last, "\n")
}

// tidy removes what differs from run to run and reads what was installed.
func (b *bootstrap) tidy(context.Context) error {
	shadow := filepath.Join(b.root, "etc/shadow")
	blob, err := os.ReadFile(shadow)
	if err != nil {
		return err
	}
	if err := os.WriteFile(shadow, datePasswords(blob, b.newest), 0o640); err != nil {
		return err
	}
	version, err := os.ReadFile(filepath.Join(b.root, "etc/debian_version"))
	if err != nil {
		return err
	}
	b.version = strings.TrimSpace(string(version))
	status, err := os.ReadFile(filepath.Join(b.root, "var/lib/dpkg/status"))
	if err != nil {
		return err
	}
	b.packages = installed(status)
	return nil
}

// datePasswords sets the day of each account's last password change.
func datePasswords(shadow []byte, day time.Time) []byte {
	days := fmt.Sprint(day.Unix() / (24 * 60 * 60))
	lines := strings.Split(string(shadow), "\n")
	for i, line := range lines {
		if f := strings.Split(line, ":"); len(f) > 2 && f[2] != "" {
			f[2] = days
			lines[i] = strings.Join(f, ":")
		}
	}
	return []byte(strings.Join(lines, "\n"))
}

// installed reads "name=version" of every package from dpkg's status file.
func installed(status []byte) []string {
	var out []string
	for _, stanza := range bytes.Split(status, []byte("\n\n")) {
		var name, version string
		for _, line := range strings.Split(string(stanza), "\n") {
			if v, ok := strings.CutPrefix(line, "Package: "); ok {
				name = v
			}
			if v, ok := strings.CutPrefix(line, "Version: "); ok {
				version = v
			}
		}
		if name != "" {
			out = append(out, name+"="+version)
		}
	}
	slices.Sort(out)
	return out
}

// leftOut says which files of a bootstrapped root do not go into the image:
// what identifies a machine, what differs from run to run, what can be had
// again, and documentation (but licences stay).
func leftOut(rel string) bool {
	dir, name := filepath.Split(rel)
	switch strings.TrimSuffix(dir, "/") {
	case "usr/share/man":
		// Some packages put links into these without making them first.
		return !manSection.MatchString(name)
	case "dev", "proc", "sys", "run", "tmp", "var/tmp", "var/lib/apt/lists", "var/cache/apt", "var/cache/ldconfig",
		"usr/share/locale", "usr/share/info", "usr/share/lintian":
		return true
	case "var/log":
		return !strings.Contains(name, "apt") || strings.Contains(name, ".")
	case "var/log/apt":
		return true
	case "etc":
		return slices.Contains([]string{"machine-id", "hostname", "resolv.conf", ".pwd.lock", "passwd-", "group-", "shadow-", "gshadow-", "subuid-", "subgid-"}, name)
	case "var/lib/dpkg", "var/cache/debconf":
		return strings.HasSuffix(name, "-old") || name == "lock" || name == "lock-frontend"
	}
	if strings.HasPrefix(rel, "usr/share/man/") || under(rel, "debootstrap", "var/lib/systemd/random-seed", "var/lib/dbus/machine-id", "root/.bash_history") {
		return true
	}
	// usr/share/doc/PACKAGE/copyright stays, with the directories above it.
	return strings.HasPrefix(rel, "usr/share/doc/") && strings.Count(rel, "/") > 3 && name != "copyright"
}
