package build

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func archiveOf(t *testing.T, headers ...tar.Header) *bytes.Buffer {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, h := range headers {
		body := ""
		if h.Typeflag == 0 || h.Typeflag == tar.TypeReg {
			body, h.Linkname = h.Linkname, ""
			h.Size = int64(len(body))
		}
		if h.Mode == 0 {
			h.Mode = 0o644
		}
		must(t, w.WriteHeader(&h))
		_, err := w.Write([]byte(body))
		must(t, err)
	}
	must(t, w.Close())
	return &buf
}

func TestAHostileContextWritesNothingOutside(t *testing.T) {
	for name, headers := range map[string][]tar.Header{
		"traversal":                {{Name: "../escaped", Linkname: "x"}},
		"traversal in the middle":  {{Name: "a/../../escaped", Linkname: "x"}},
		"through a link":           {{Name: "out", Typeflag: tar.TypeSymlink, Linkname: ".."}, {Name: "out/escaped", Linkname: "x"}},
		"through an absolute link": {{Name: "out", Typeflag: tar.TypeSymlink, Linkname: "PARENT"}, {Name: "out/escaped", Linkname: "x"}},
		"a hard link to outside":   {{Name: "in", Typeflag: tar.TypeLink, Linkname: "../secret"}},
		"a device":                 {{Name: "dev", Typeflag: tar.TypeBlock}},
	} {
		t.Run(name, func(t *testing.T) {
			parent := t.TempDir()
			must(t, os.WriteFile(filepath.Join(parent, "secret"), []byte("s3cret"), 0o600))
			dir := filepath.Join(parent, "context")
			must(t, os.Mkdir(dir, 0o700))
			for i := range headers {
				headers[i].Linkname = strings.ReplaceAll(headers[i].Linkname, "PARENT", parent)
			}
			if err := unpackContext(archiveOf(t, headers...), dir); err == nil {
				t.Error("accepted")
			}
			if _, err := os.Lstat(filepath.Join(parent, "escaped")); err == nil {
				t.Error("written outside")
			}
		})
	}
}

func TestAFileReplacesALinkInsteadOfFollowingIt(t *testing.T) {
	parent := t.TempDir()
	dir := filepath.Join(parent, "context")
	must(t, os.Mkdir(dir, 0o700))
	must(t, os.WriteFile(filepath.Join(parent, "victim"), []byte("whole"), 0o600))
	must(t, unpackContext(archiveOf(t,
		tar.Header{Name: "f", Typeflag: tar.TypeSymlink, Linkname: "../victim"}, tar.Header{Name: "f", Linkname: "new"}), dir))
	if b, _ := os.ReadFile(filepath.Join(parent, "victim")); string(b) != "whole" {
		t.Errorf("victim: %q", b)
	}
	if b, _ := os.ReadFile(filepath.Join(dir, "f")); string(b) != "new" {
		t.Errorf("file: %q", b)
	}
}

func TestABombIsRefusedBeforeItIsOnTheDisk(t *testing.T) {
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	w := tar.NewWriter(z)
	must(t, w.WriteHeader(&tar.Header{Name: "zeros", Mode: 0o644, Size: 1 << 50}))
	_, err := w.Write(make([]byte, 1<<20))
	must(t, err)
	must(t, z.Close()) // the archive claims more than it has
	dir := t.TempDir()
	if err := unpackContext(&packed, dir); err == nil || !strings.Contains(err.Error(), "larger than") {
		t.Errorf("got %v", err)
	}
	if left, _ := os.ReadDir(dir); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

func TestAContextCanArriveAsAnArchive(t *testing.T) {
	e := newEnv(t)
	tag := e.host + "/archived:1"
	res := e.build(t, Options{
		ContextTar: archiveOf(t, tar.Header{Name: "sub/Containerfile", Linkname: "FROM scratch\nCOPY file /\n"}, tar.Header{Name: "file", Linkname: "here"}),
		Dockerfile: "sub/Containerfile", Tags: []string{tag}, Push: true,
	})
	files, _ := pulled(t, tag, res.Digest)
	if files["file"] != "here" {
		t.Errorf("files %v", files)
	}
	if left, err := os.ReadDir(filepath.Join(e.client.paths.dir, "contexts")); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
	if _, err := e.client.Build(context.Background(), Options{ContextTar: strings.NewReader("no archive")}); err == nil {
		t.Error("accepted")
	}
}
