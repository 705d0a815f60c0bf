package inspect

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/zstd"
)

const (
	osRelease = "PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nID=debian\nVERSION_ID=\"12\"\nVERSION_CODENAME=bookworm\n"
	bash      = "Package: bash\nStatus: install ok installed\nVersion: 5.2.15-2+b7\nSource: bash (5.2.15-2)\nArchitecture: amd64\n\n"
	curl      = "Package: curl\nStatus: install ok installed\nVersion: 7.88.1-10\nArchitecture: amd64\n\n"
	removed   = "Package: gone\nStatus: deinstall ok config-files\nVersion: 1\nArchitecture: amd64\n\n"
)

func TestPackagesBelongToTheLayerThatBroughtThem(t *testing.T) {
	img := image(t,
		gz(entries(t, plain("usr/lib/os-release", osRelease), link("etc/os-release", "../usr/lib/os-release"), plain("var/lib/dpkg/status", bash+removed))),
		zst(entries(t, plain("var/lib/dpkg/status", bash+curl), plain("app/node_modules/left-pad/package.json", `{"name":"left-pad","version":"1.3.0"}`),
			plain("old/lib/python3.11/site-packages/Foo-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: Foo\nVersion: 1.0\n"))),
		entries(t, plain("old/.wh.lib", ""), plain("app/readme", "hello")), // not compressed
	)
	found, err := Image(context.Background(), img, Options{TempDir: t.TempDir()})
	must(t, err)
	var got []string
	for _, p := range found.Packages {
		got = append(got, fmt.Sprintf("%s %s %s %s/%s layer %d", p.Ecosystem, p.Name, p.Version, p.Source, p.SourceVersion, p.Layer))
	}
	want := map[string]bool{"Debian:12 bash 5.2.15-2+b7 /5.2.15-2 layer 0": true, "Debian:12 curl 7.88.1-10 / layer 1": true, "npm left-pad 1.3.0 / layer 1": true}
	for _, g := range got {
		if !want[g] {
			t.Errorf("found %s", g)
		}
		delete(want, g)
	}
	if len(want) > 0 || found.OS != "Debian GNU/Linux 12 (bookworm)" {
		t.Errorf("missing %v; system %q", want, found.OS)
	}
}

func TestAnOpaqueDirectoryHidesOnlyWhatIsBelowIt(t *testing.T) {
	pkg := func(name string) string { return fmt.Sprintf(`{"name":%q,"version":"1.0.0"}`, name) }
	img := image(t,
		entries(t, plain("a/x/package.json", pkg("hidden")), plain("b/package.json", pkg("kept"))),
		entries(t, plain("a/.wh..wh..opq", ""), plain("a/y/package.json", pkg("new"))))
	found, err := Image(context.Background(), img, Options{})
	must(t, err)
	names := ""
	for _, p := range found.Packages {
		names += p.Name + " "
	}
	if strings.Contains(names, "hidden") || !strings.Contains(names, "kept") || !strings.Contains(names, "new") {
		t.Errorf("packages %s", names)
	}
}

func TestSecretsAreFoundEvenWhereALaterLayerDeletesThem(t *testing.T) {
	key := privateKey(t)
	img := image(t,
		entries(t, plain("root/.ssh/id_ecdsa", key), plain("etc/app.pem", "# for TLS\n"+key), plain("usr/share/doc/x/example.pem", key),
			plain("blob.bin", "\x00"+key), setuid("usr/bin/su")),
		entries(t, plain("root/.wh..ssh", "")))
	found, err := Image(context.Background(), img, Options{})
	must(t, err)
	got := fmt.Sprint(found.Secrets)
	if want := "[{private key etc/app.pem 2 0 false} {private key root/.ssh/id_ecdsa 1 0 true}]"; got != want {
		t.Errorf("secrets %s, want %s", got, want)
	}
	if s := found.Setuid; len(s) != 1 || s[0].Path != "usr/bin/su" || s[0].Mode != "setuid" {
		t.Errorf("setuid %v", s)
	}
}

// An image that lies, climbs or explodes costs no more than an honest one.
func TestHostileLayersDoNoHarm(t *testing.T) {
	ctx, canary := context.Background(), t.TempDir()+"/canary"
	climbing := image(t, entries(t,
		plain("../../../../../.."+canary, "out"), plain("a/../../var/lib/dpkg/status", bash), plain("/etc/os-release", osRelease),
		link("var/lib/apk", canary), link("lib/apk/db/installed", "/etc/passwd"), hard("x", "/etc/passwd"),
		device("dev/sda"), plain(strings.Repeat("long/", 5000)+"package.json", `{"name":"deep","version":"1.0.0"}`)))
	found, err := Image(ctx, climbing, Options{})
	must(t, err)
	if _, err := os.Lstat(canary); !os.IsNotExist(err) {
		t.Errorf("a layer wrote outside: %v", err)
	}
	names := map[string]string{}
	for _, p := range found.Packages {
		names[p.Name] = p.Path
	}
	if len(names) != 2 || names["bash"] != "var/lib/dpkg/status" || names["deep"] == "" {
		t.Errorf("packages %v: want what a runtime would see, and nothing of this machine", names)
	}
	if len(found.Notes) < 2 || !strings.Contains(found.Notes[0], "climbs") {
		t.Errorf("notes %v", found.Notes)
	}

	bomb := gz(stream(t, "zeros/package.json", 50<<20))
	if len(bomb) > 100<<10 {
		t.Fatalf("the bomb has %d bytes", len(bomb))
	}
	for name, options := range map[string]Options{"bytes": {MaxUnpackedBytes: 10 << 20}, "files": {MaxFiles: 2}} {
		_, err := Image(ctx, image(t, entries(t, plain("a", ""), plain("b", "")), bomb), options)
		if !errors.Is(err, ErrTooLarge) {
			t.Errorf("limit of %s: %v", name, err)
		}
	}
	found, err = Image(ctx, image(t, gz(stream(t, "big.jar", 20<<20))), Options{MaxFileBytes: 10 << 20})
	if err != nil || len(found.Notes) != 1 || !strings.Contains(found.Notes[0], "big.jar was not looked at") {
		t.Errorf("a large file: %v, %v", found, err)
	}

	honest := entries(t, plain("etc/os-release", osRelease), plain("var/lib/dpkg/status", bash))
	for name, layer := range map[string][]byte{
		"cut":         honest[:560],
		"cut gzip":    gz(honest)[:80],
		"no archive":  []byte(strings.Repeat("this is no archive. ", 100)),
		"a bad magic": append([]byte("\x28\xb5\x2f\xfd"), honest...),
	} {
		if found, err := Image(ctx, image(t, layer), Options{}); err == nil {
			t.Errorf("%s was read as %+v", name, found)
		}
	}
}

func TestADamagedDatabaseIsSaid(t *testing.T) {
	found, err := Image(context.Background(), image(t, entries(t, plain("var/lib/rpm/rpmdb.sqlite", "SQLite format 3\x00 and then nothing"))), Options{TempDir: t.TempDir()})
	must(t, err)
	if len(found.Notes) != 1 || !strings.Contains(found.Notes[0], "rpmdb.sqlite could not be read as os/rpm") {
		t.Errorf("notes %v", found.Notes)
	}
}

func TestGoProgramsSayWhatTheyAreMadeOf(t *testing.T) {
	self, err := os.Executable() // this test, a Go program
	must(t, err)
	program, err := os.ReadFile(self)
	must(t, err)
	dir := t.TempDir()
	found, err := Image(context.Background(), image(t, entries(t, executable("usr/bin/app", program))), Options{TempDir: dir})
	must(t, err)
	seen := map[string]bool{}
	for _, p := range found.Packages {
		seen[p.Ecosystem+" "+p.Name] = true
	}
	if !seen["Go stdlib"] || !seen["Go github.com/gantryhq/gantry"] {
		t.Errorf("packages %v", seen)
	}
	if left, _ := os.ReadDir(dir); len(left) > 0 {
		t.Errorf("left %v", left)
	}
}

func image(t *testing.T, layers ...[]byte) v1.Image {
	t.Helper()
	img := mutate.MediaType(empty.Image, types.OCIManifestSchema1)
	for _, l := range layers {
		var err error
		img, err = mutate.AppendLayers(img, raw{static.NewLayer(l, types.OCILayer)})
		must(t, err)
	}
	return img
}

// raw is a layer whose bytes are what they are.
type raw struct{ v1.Layer }

func entries(t *testing.T, add ...func(*tar.Writer) error) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, a := range add {
		must(t, a(w))
	}
	must(t, w.Close())
	return b.Bytes()
}

func member(h tar.Header, body []byte) func(*tar.Writer) error {
	return func(w *tar.Writer) error {
		h.Size = int64(len(body))
		if err := w.WriteHeader(&h); err != nil {
			return err
		}
		_, err := w.Write(body)
		return err
	}
}

func plain(name, body string) func(*tar.Writer) error {
	return member(tar.Header{Name: name, Mode: 0o644, Typeflag: tar.TypeReg}, []byte(body))
}

func executable(name string, body []byte) func(*tar.Writer) error {
	return member(tar.Header{Name: name, Mode: 0o755, Typeflag: tar.TypeReg}, body)
}

func setuid(name string) func(*tar.Writer) error {
	return member(tar.Header{Name: name, Mode: 0o4755, Typeflag: tar.TypeReg}, []byte("\x7fELF"))
}

func link(name, to string) func(*tar.Writer) error {
	return member(tar.Header{Name: name, Linkname: to, Typeflag: tar.TypeSymlink}, nil)
}

func hard(name, to string) func(*tar.Writer) error {
	return member(tar.Header{Name: name, Linkname: to, Typeflag: tar.TypeLink}, nil)
}

func device(name string) func(*tar.Writer) error {
	return member(tar.Header{Name: name, Typeflag: tar.TypeBlock, Devmajor: 8}, nil)
}

// stream is an archive of one file of zeros.
func stream(t *testing.T, name string, size int64) []byte {
	t.Helper()
	return entries(t, member(tar.Header{Name: name, Mode: 0o644, Typeflag: tar.TypeReg}, make([]byte, size)))
}

func gz(b []byte) []byte {
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	_, _ = w.Write(b)
	_ = w.Close()
	return out.Bytes()
}

func zst(b []byte) []byte {
	w, _ := zstd.NewWriter(io.Discard)
	return w.EncodeAll(b, nil)
}

func privateKey(t *testing.T) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	der, err := x509.MarshalECPrivateKey(key)
	must(t, err)
	return string(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}))
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
