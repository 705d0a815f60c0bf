package scan

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/gantryhq/gantry/services/scan/inspect"
	"github.com/gantryhq/gantry/services/scan/osvdb"
	"github.com/gantryhq/gantry/services/scan/report"
)

const (
	osRelease = "PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nID=debian\nVERSION_ID=\"12\"\n"
	dpkg      = "Package: libssl3\nStatus: install ok installed\nSource: openssl\nVersion: 3.0.9-1\nArchitecture: amd64\n\n" +
		"Package: bash\nStatus: install ok installed\nVersion: 5.2.15-2+b7\nSource: bash (5.2.15-2)\nArchitecture: amd64\n"

	opensslRecord = `{"id":"DEBIAN-CVE-2024-1","modified":"2024-05-01T00:00:00Z","upstream":["CVE-2024-1"],"summary":"A flaw in openssl",
		"severity":[{"type":"CVSS_V3","score":"CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:H/I:H/A:H"}],
		"affected":[{"package":{"ecosystem":"Debian:12","name":"openssl"},"ranges":[{"type":"ECOSYSTEM","events":[{"introduced":"0"},{"fixed":"3.0.11-1"}]}]}]}`
	dsaRecord = `{"id":"DSA-1-1","modified":"2024-05-01T00:00:00Z","aliases":["CVE-2024-1"],
		"affected":[{"package":{"ecosystem":"Debian:12","name":"openssl"},"ranges":[{"type":"ECOSYSTEM","events":[{"introduced":"0"},{"fixed":"3.0.11-1"}]}]}]}`
	bashRecord = `{"id":"DEBIAN-CVE-2024-2","modified":"2024-06-01T00:00:00Z","upstream":["CVE-2024-2"],"summary":"A flaw in bash",
		"severity":[{"type":"CVSS_V3","score":"CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:H/I:N/A:N"}],
		"affected":[{"package":{"ecosystem":"Debian:12","name":"bash"},"ranges":[{"type":"ECOSYSTEM","events":[{"introduced":"0"},{"fixed":"5.2.15-2+b1"}]}]}]}`
)

func TestAnImageIsScannedFromWhereverItIs(t *testing.T) {
	img := debian(t, v1.Config{Env: []string{"PATH=/bin", "DB_PASSWORD=hunter2", "TOKEN=glpat-" + strings.Repeat("aB3x", 5)}})
	s := scanner(t, opensslRecord, dsaRecord, bashRecord)
	dir := t.TempDir()
	saved, laidOut := filepath.Join(dir, "saved.tar"), filepath.Join(dir, "layout")
	tag, err := name.NewTag("shop/cart:1")
	must(t, err)
	must(t, tarball.WriteToFile(saved, tag, img))
	path, err := layout.Write(laidOut, empty.Index)
	must(t, err)
	must(t, path.AppendImage(img))
	packed := filepath.Join(dir, "layout.tar")
	must(t, os.WriteFile(packed, tarOf(t, laidOut), 0o644))
	want := ""
	for _, source := range []string{saved, laidOut, packed} {
		opened, done, err := Open(source, linux())
		must(t, err)
		r, err := s.Image(context.Background(), "shop/cart:1", opened)
		must(t, err)
		must(t, done.Close())
		if got := findings(r); want == "" {
			want = got
		} else if got != want {
			t.Errorf("%s gives\n%s\nnot\n%s", filepath.Base(source), got, want)
		}
	}
	// The advisory and the distribution's record are one finding. bash was fixed in a
	// rebuild, which the source's version does not tell: it is reported.
	for _, line := range []string{"critical CVE-2024-1 libssl3 3.0.9-1 3.0.11-1 DEBIAN-CVE-2024-1,DSA-1-1", "high CVE-2024-2 bash 5.2.15-2+b7 5.2.15-2+b1",
		"medium root-user", "negligible no-health-check", "medium secret-name ENV DB_PASSWORD", "high secret ENV TOKEN", "high curl-pipe-shell history"} {
		if !strings.Contains(want, line) {
			t.Errorf("no %q in\n%s", line, want)
		}
	}
	if strings.Contains(want, "hunter2") || strings.Contains(want, "glpat-") {
		t.Errorf("a secret is in\n%s", want)
	}
}

func TestWhatIsNoImageIsRefused(t *testing.T) {
	dir := t.TempDir()
	text := filepath.Join(dir, "text")
	must(t, os.WriteFile(text, []byte("FROM scratch\n"), 0o644))
	laidOut := filepath.Join(dir, "layout")
	path, err := layout.Write(laidOut, empty.Index)
	must(t, err)
	img := debian(t, v1.Config{})
	must(t, path.AppendImage(img))
	layers, err := img.Layers()
	must(t, err)
	digest, err := layers[0].Digest()
	must(t, err)
	for name, prepare := range map[string]func() string{
		"missing":         func() string { return filepath.Join(dir, "missing") },
		"a text":          func() string { return text },
		"a directory":     func() string { return dir },
		"another machine": func() string { return laidOut }, // asked for below
	} {
		platform := linux()
		if name == "another machine" {
			must(t, path.AppendImage(img, layout.WithPlatform(v1.Platform{OS: "linux", Architecture: "s390x"})))
			platform.Architecture = "riscv64"
		}
		if _, _, err := Open(prepare(), platform); err == nil {
			t.Errorf("%s was opened", name)
		}
	}
	// A layer whose content is not what its digest says.
	blob := filepath.Join(laidOut, "blobs", "sha256", digest.Hex)
	content, err := os.ReadFile(blob)
	must(t, err)
	content[len(content)-1] ^= 1
	must(t, os.Chmod(blob, 0o644))
	must(t, os.WriteFile(blob, content, 0o644))
	single := filepath.Join(t.TempDir(), "l")
	must(t, os.CopyFS(single, os.DirFS(laidOut)))
	other, err := layout.FromPath(single)
	must(t, err)
	must(t, other.ReplaceImage(img, func(v1.Descriptor) bool { return true }))
	must(t, os.WriteFile(filepath.Join(single, "blobs", "sha256", digest.Hex), content, 0o644))
	opened, _, err := Open(single, linux())
	must(t, err)
	if r, err := scanner(t).Image(context.Background(), "x", opened); err == nil {
		t.Errorf("a changed layer was scanned: %+v", r)
	}
}

func TestTroubleOfThisMachineIsNotTheImages(t *testing.T) {
	for err, want := range map[error]bool{
		fmt.Errorf("hold a file: %w", &os.PathError{Op: "write", Path: "x", Err: syscall.ENOSPC}): true,
		&net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}:                                       true,
		fmt.Errorf("read layer: %w", inspect.ErrTooLarge):                                         false,
		fmt.Errorf("read layer: %w", tar.ErrHeader):                                               false,
	} {
		if ours(err) != want {
			t.Errorf("%v: %v", err, !want)
		}
	}
}

func findings(r *report.Report) string {
	var b strings.Builder
	for _, v := range r.Vulnerabilities {
		b.WriteString(strings.Join([]string{v.Severity.String(), v.ID, v.Package, v.Installed, v.Fixed, strings.Join(v.Aliases, ",")}, " ") + "\n")
	}
	for _, f := range r.Faults {
		b.WriteString(f.Severity.String() + " " + f.Rule + " " + f.Path + " " + f.Message + "\n")
	}
	return b.String()
}

// debian is an image with two packages that was built in a bad way.
func debian(t *testing.T, config v1.Config) v1.Image {
	t.Helper()
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(archiveOf(t, map[string]string{"usr/lib/os-release": osRelease, "var/lib/dpkg/status": dpkg}))), nil
	}, tarball.WithMediaType(types.OCILayer))
	must(t, err)
	img, err := mutate.Append(mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON), mutate.Addendum{
		Layer: layer, History: v1.History{CreatedBy: "RUN /bin/sh -c curl -sSL https://example.com/install.sh | bash # buildkit"},
	})
	must(t, err)
	file, err := img.ConfigFile()
	must(t, err)
	file = file.DeepCopy()
	file.Config, file.OS, file.Architecture = config, linux().OS, linux().Architecture
	img, err = mutate.ConfigFile(img, file)
	must(t, err)
	return img
}

// withFile is an image with a further layer of one file of zeros.
func withFile(t *testing.T, img v1.Image, name string, size int) v1.Image {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	must(t, w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(size)}))
	_, err := w.Write(make([]byte, size))
	must(t, err)
	must(t, w.Close())
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b.Bytes())), nil })
	must(t, err)
	img, err = mutate.AppendLayers(img, layer)
	must(t, err)
	return img
}

func archiveOf(t *testing.T, files map[string]string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, name := range []string{"usr/lib/os-release", "var/lib/dpkg/status"} {
		if body, ok := files[name]; ok {
			must(t, w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(body))}))
			_, err := io.WriteString(w, body)
			must(t, err)
		}
	}
	must(t, w.Close())
	return b.Bytes()
}

func tarOf(t *testing.T, dir string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	must(t, w.AddFS(os.DirFS(dir)))
	must(t, w.Close())
	return b.Bytes()
}

// scanner scans with a database of these records.
func scanner(t *testing.T, records ...string) *Scanner {
	t.Helper()
	if len(records) == 0 {
		return &Scanner{}
	}
	file := database(t, records...)
	db, err := osvdb.Open(file)
	must(t, err)
	t.Cleanup(func() { _ = db.Close() })
	return &Scanner{Database: db, Status: &osvdb.Status{Name: "test", Digest: "sha256:test", About: db.About()}}
}

func database(t *testing.T, records ...string) string {
	t.Helper()
	dir := t.TempDir()
	var files []string
	for i, r := range records {
		files = append(files, filepath.Join(dir, string(rune('a'+i))+".json"))
		must(t, os.WriteFile(files[i], []byte(r), 0o644))
	}
	file := filepath.Join(dir, "osv.db")
	_, err := osvdb.Import(context.Background(), file, files, nil)
	must(t, err)
	return file
}

func newRegistry(t *testing.T) string {
	t.Helper()
	srv := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0)), registry.WithReferrersSupport(true)))
	t.Cleanup(srv.Close)
	return strings.TrimPrefix(srv.URL, "http://")
}

func push(t *testing.T, tag string, img v1.Image) name.Digest {
	t.Helper()
	ref, err := name.ParseReference(tag)
	must(t, err)
	must(t, remote.Write(ref, img))
	digest, err := img.Digest()
	must(t, err)
	return ref.Context().Digest(digest.String())
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
