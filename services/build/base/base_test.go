package base

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/gantryhq/gantry/internal/hint"
	"github.com/gantryhq/gantry/internal/testenv"
)

func TestBusyboxIsAnImageWithAllApplets(t *testing.T) {
	testenv.NeedProgram(t, "busybox", "busybox-static")
	host := newRegistry(t)
	opt := BusyboxOptions{Tag: host + "/base/busybox:latest", WorkDir: t.TempDir()}
	first, err := Busybox(context.Background(), opt)
	must(t, err)
	files := contents(t, first.Ref)
	for name, want := range map[string]string{"bin/sh": "/bin/busybox", "usr/bin/env": "/bin/busybox", "etc/passwd": "root:x:0:0", "bin/busybox": "\x7fELF"} {
		if !strings.HasPrefix(files[name], want) {
			t.Errorf("%s is %.20q", name, files[name])
		}
	}
	again, err := Busybox(context.Background(), opt)
	if err != nil || !again.Skipped || again.Digest != first.Digest {
		t.Errorf("made again: %+v, %v", again, err)
	}
	opt.Refresh = true
	fresh, err := Busybox(context.Background(), opt)
	if err != nil || fresh.Skipped || fresh.Digest != first.Digest {
		t.Errorf("the same inputs gave %+v, %v; first %s", fresh, err, first.Digest)
	}
}

func TestADynamicBusyboxIsRefused(t *testing.T) {
	sh, err := exec.LookPath("bash")
	if err != nil {
		t.Skip("no bash to stand in for a dynamic busybox")
	}
	_, err = Busybox(context.Background(), BusyboxOptions{Tag: newRegistry(t) + "/base/b:1", Program: sh})
	if err == nil || !strings.Contains(err.Error(), "dynamically") || hint.Of(err) == "" {
		t.Errorf("got %v", err)
	}
}

func TestAnUnreachableRegistryIsSaidBeforeTheWork(t *testing.T) {
	srv := httptest.NewServer(nil)
	srv.Close()
	_, err := Debian(context.Background(), DebianOptions{Tag: strings.TrimPrefix(srv.URL, "http://") + "/base/d:1", Suite: "bookworm"})
	if err == nil || hint.Of(err) == "" {
		t.Errorf("got %v", err)
	}
}

func TestNamesAreCheckedBeforeAProgramSeesThem(t *testing.T) {
	for _, opt := range []DebianOptions{
		{Tag: "UPPER/x"},
		{Tag: "127.0.0.1:1/x:1", Suite: "--help"},
		{Tag: "127.0.0.1:1/x:1", Include: []string{"curl,$(id)"}},
	} {
		if _, err := Debian(context.Background(), opt); err == nil {
			t.Errorf("%+v was accepted", opt)
		}
	}
}

func TestDebianIsTheSameFromTheSamePackages(t *testing.T) {
	testenv.LongRunning(t)
	testenv.NeedRoot(t)
	testenv.NeedProgram(t, "debootstrap", "debootstrap")
	host := newRegistry(t)
	opt := DebianOptions{Tag: host + "/base/debian:12", Suite: "bookworm", WorkDir: t.TempDir()}
	other := opt
	other.Tag, other.WorkDir = host+"/base/again:12", t.TempDir()
	type made struct {
		*Result
		err error
	}
	again := make(chan made, 1)
	go func() {
		r, err := Debian(context.Background(), other)
		again <- made{r, err}
	}()
	began := time.Now()
	first, err := Debian(context.Background(), opt)
	second := <-again
	if err != nil && strings.Contains(err.Error(), "debootstrap") && os.Getenv("CI") != "true" {
		t.Skipf("no Debian mirror can be reached: %v", err)
	}
	must(t, err)
	t.Logf("%d packages, %d MB, in %v", first.Packages, first.Size>>20, time.Since(began).Round(time.Second))
	files := contents(t, first.Ref)
	for _, name := range []string{"etc/debian_version", "bin", "usr/bin/apt-get", "etc/ssl/certs/ca-certificates.crt", "usr/share/doc/bash/copyright"} {
		if _, ok := files[name]; !ok {
			t.Errorf("%s is missing", name)
		}
	}
	for name := range files {
		for _, gone := range []string{"usr/share/man/man1/", "usr/share/locale/", "var/lib/apt/lists/", "var/cache/apt/", "dev/", "proc/", "etc/machine-id", "etc/resolv.conf"} {
			if strings.HasPrefix(name, gone) && name != gone {
				t.Errorf("%s is there", name)
			}
		}
	}
	if first.Packages < 70 || !strings.Contains(files["etc/apt/sources.list.d/debian.sources"], "bookworm") {
		t.Errorf("%d packages, sources %q", first.Packages, files["etc/apt/sources.list.d/debian.sources"])
	}
	must(t, second.err)
	if first.Digest != second.Digest {
		t.Errorf("two runs differ:%s", difference(files, contents(t, second.Ref)))
	}
}

func TestAptSourcesAreReadInBothFormats(t *testing.T) {
	dir := t.TempDir()
	must(t, os.Mkdir(filepath.Join(dir, "sources.list.d"), 0o755))
	write := func(name, body string) { must(t, os.WriteFile(filepath.Join(dir, name), []byte(body), 0o644)) }
	write("sources.list", "# comment\ndeb [arch=amd64 signed-by=/k.gpg] http://mirror.test/debian/ bookworm main contrib # here\ndeb-src http://x bookworm main\n")
	write("sources.list.d/a.sources", "Types: deb\n# old\nURIs: http://sec.test/debian-security\nSuites: bookworm-security trixie-security\nComponents: main\n\nEnabled: no\nTypes: deb\nURIs: http://off.test\nSuites: bookworm-updates\nComponents: main\n")
	got, err := hostSources(dir, "bookworm")
	must(t, err)
	want := []aptSource{
		{"http://mirror.test/debian", "bookworm", []string{"main"}},
		{"http://sec.test/debian-security", "bookworm-security", []string{"main"}},
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("sources %v", got)
	}
	if back, err := deb822Sources(strings.NewReader(deb822(got))); err != nil || fmt.Sprint(back) != fmt.Sprint(want) {
		t.Errorf("written and read: %v, %v", back, err)
	}
	public, err := hostSources(t.TempDir(), "trixie")
	if err != nil || len(public) != 3 || public[0].uri != publicMirror {
		t.Errorf("a host without apt: %v, %v", public, err)
	}
}

func TestWhatStaysOutOfAnImage(t *testing.T) {
	for rel, out := range map[string]bool{
		"etc/machine-id": true, "etc/passwd": false, "etc/passwd-": true, "dev": false, "dev/null": true,
		"usr/share/man/man1": false, "usr/share/man/man1/ls.1.gz": true, "usr/share/man/de": true, "usr/share/doc": false, "usr/share/doc/bash": false, "usr/share/doc/bash/copyright": false,
		"usr/share/doc/bash/README": true, "usr/share/doc/bash/examples/x": true,
		"var/log": false, "var/log/apt": false, "var/log/apt/term.log": true, "var/log/dpkg.log": true,
		"var/lib/dpkg/status": false, "var/lib/dpkg/status-old": true, "var/lib/apt/lists": false, "var/lib/apt/lists/x": true,
	} {
		if leftOut(rel) != out {
			t.Errorf("leftOut(%q) = %v", rel, !out)
		}
	}
}

func newRegistry(t *testing.T) string {
	t.Helper()
	srv := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	t.Cleanup(srv.Close)
	return strings.TrimPrefix(srv.URL, "http://")
}

// contents reads an image's files: bodies of files, targets of links.
func contents(t *testing.T, tag string) map[string]string {
	t.Helper()
	ref, err := name.ParseReference(tag)
	must(t, err)
	img, err := remote.Image(ref)
	must(t, err)
	rc := mutate.Extract(img)
	defer rc.Close()
	files := map[string]string{}
	tr := tar.NewReader(rc)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		must(t, err)
		body, err := io.ReadAll(tr)
		must(t, err)
		files[strings.TrimSuffix(h.Name, "/")] = string(body) + h.Linkname
	}
}

func difference(a, b map[string]string) string {
	var out []string
	for name, body := range a {
		if other, ok := b[name]; !ok || other != body {
			out = append(out, name)
		}
	}
	for name := range b {
		if _, ok := a[name]; !ok {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return "\n" + strings.Join(out, "\n")
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestBaseImagesAreToldFromWhatDerivesFromThem(t *testing.T) {
	testenv.NeedProgram(t, "busybox", "busybox-static")
	ctx, host := context.Background(), newRegistry(t)
	made, err := Busybox(ctx, BusyboxOptions{Tag: host + "/base/busybox:latest", WorkDir: t.TempDir()})
	must(t, err)
	from := pulled(t, made.Ref)
	layer, err := random.Layer(100, types.OCILayer)
	must(t, err)
	onTop, err := mutate.Append(from, mutate.Addendum{Layer: layer, History: v1.History{CreatedBy: "RUN"}})
	must(t, err)
	labelled, err := mutate.Append(from, mutate.Addendum{Layer: layer, History: v1.History{CreatedBy: "LABEL"}})
	must(t, err)
	config, err := labelled.ConfigFile()
	must(t, err)
	config = config.DeepCopy()
	config.RootFS.DiffIDs, config.History[1].EmptyLayer = config.RootFS.DiffIDs[:1], true
	relabelled, err := mutate.ConfigFile(from, config)
	must(t, err)
	unrelated, err := random.Image(100, 2)
	must(t, err)
	for tag, img := range map[string]v1.Image{"app/a:1": onTop, "app/only-labels:1": relabelled, "other/b:1": unrelated} {
		ref, err := name.ParseReference(host + "/" + tag)
		must(t, err)
		must(t, remote.Write(ref, img))
	}
	bases, err := List(ctx, host)
	must(t, err)
	if len(bases) != 1 || bases[0].Digest != made.Digest || bases[0].Recipe.Kind != "busybox" {
		t.Fatalf("base images %+v: what only has the labels of one may not be replaced by it", bases)
	}
	derived, err := Derived(ctx, host, bases[0])
	if err != nil || fmt.Sprint(derived) != fmt.Sprintf("[%s/app/a:1]", host) {
		t.Errorf("derived %v, %v", derived, err)
	}
}

func TestASlimImageHasOnlyWhatWasNamed(t *testing.T) {
	testenv.LongRunning(t)
	testenv.NeedRoot(t)
	ctx, host := context.Background(), newRegistry(t)
	opt := SlimOptions{Tag: host + "/base/static:12", Name: "static", Suite: "bookworm", Packages: Kinds("bookworm")["static"], WorkDir: t.TempDir()}
	made, err := Slim(ctx, opt)
	if err != nil && strings.Contains(err.Error(), "apt-get") && os.Getenv("CI") != "true" {
		t.Skipf("no Debian mirror can be reached: %v", err)
	}
	must(t, err)
	files := contents(t, made.Ref)
	for name, part := range map[string]string{
		"etc/ssl/certs/ca-certificates.crt": "BEGIN CERTIFICATE", "usr/share/zoneinfo/Europe/Berlin": "TZif", "etc/passwd": "nonroot:x:65532",
		"var/lib/dpkg/status.d/tzdata": "Package: tzdata\n", "usr/lib/os-release": "ID=debian", "lib": "usr/lib", "usr/share/doc/tzdata/copyright": "",
	} {
		if body, ok := files[name]; !ok || !strings.Contains(body, part) {
			t.Errorf("%s is %.40q", name, body)
		}
	}
	for name := range files {
		if strings.HasPrefix(name, "usr/bin/") || strings.HasPrefix(name, "usr/share/man/") || strings.HasPrefix(name, "var/lib/apt") {
			t.Errorf("%s is in the image", name)
		}
	}
	config, err := pulled(t, made.Ref).ConfigFile()
	must(t, err)
	if config.Config.User != "65532" || made.Packages != 4 {
		t.Errorf("user %q, %d packages", config.Config.User, made.Packages)
	}
	opt.Tag = host + "/base/again:12"
	if again, err := Slim(ctx, opt); err != nil || again.Digest != made.Digest {
		t.Errorf("the same packages gave %+v, %v; first %s", again, err, made.Digest)
	}
	bases, err := List(ctx, host)
	must(t, err)
	if updates, err := Updates(ctx, bases[0], t.TempDir()); err != nil || len(updates) > 0 {
		t.Errorf("an image of today has updates: %v, %v", updates, err)
	}
	bases[0].Packages[0] = "base-files=1"
	if updates, err := Updates(ctx, bases[0], t.TempDir()); err != nil || len(updates) != 1 || !strings.HasPrefix(updates[0], "base-files 1 → ") {
		t.Errorf("an old image has the updates %v, %v", updates, err)
	}
	opt.Packages = []string{"no-such-package-here"}
	if _, err := Slim(ctx, opt); err == nil || hint.Of(err) == "" {
		t.Errorf("a package that does not exist: %v", err)
	}
}

func pulled(t *testing.T, tag string) v1.Image {
	t.Helper()
	ref, err := name.ParseReference(tag)
	must(t, err)
	img, err := remote.Image(ref)
	must(t, err)
	return img
}
