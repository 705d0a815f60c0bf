package base

import (
	"archive/tar"
	"bytes"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/gantryhq/gantry/internal/hint"
)

// BusyboxOptions say how to make a busybox image.
type BusyboxOptions struct {
	Tag      string // where to push it: "127.0.0.1:5000/base/busybox:latest"
	Program  string // a static busybox; "" means the one on the PATH
	WorkDir  string // for temporary files; "" means the system's
	Refresh  bool   // make it even if it is there
	Progress Progress
}

// Busybox makes an image of a static busybox with all its applets: 1 MB, for
// tests and for debugging.
func Busybox(ctx context.Context, opt BusyboxOptions) (*Result, error) {
	ref, err := parseTag(opt.Tag)
	if err != nil {
		return nil, err
	}
	bb, err := findBusybox(ctx, opt.Program)
	if err != nil {
		return nil, err
	}
	inputs := inputsDigest("busybox", bb.banner, string(bb.program))
	if !opt.Refresh {
		if r, err := existing(ctx, ref, inputs); r != nil || err != nil {
			return r, err
		}
	}
	dir, remove, err := workDir(opt.WorkDir)
	if err != nil {
		return nil, err
	}
	defer remove()
	layer := filepath.Join(dir, "layer.tar.gz")
	if err := bb.write(layer); err != nil {
		return nil, fmt.Errorf("make busybox layer: %w", err)
	}
	opt.Progress.say("pushing %s", ref)
	img := &image{
		ref: ref, inputs: inputs, layer: layer, created: time.Unix(0, 0),
		title: "busybox", version: bb.version(), source: "pkg:deb/debian/busybox-static",
		packages: []string{"busybox-static=" + bb.version()}, cmd: []string{"sh"},
		recipe: &Recipe{Kind: "busybox"},
	}
	return img.push(ctx)
}

type busybox struct {
	program []byte
	applets []string // relative paths
	banner  string   // "BusyBox v1.35.0 (Debian ...) multi-call binary."
}

func findBusybox(ctx context.Context, path string) (*busybox, error) {
	const remedy = "apt-get install busybox-static"
	if path == "" {
		found, err := exec.LookPath("busybox")
		if err != nil {
			return nil, hint.Wrap(errors.New("a busybox image needs a static busybox on this machine, and there is none"), remedy)
		}
		path = found
	}
	static, err := isStatic(path)
	if err != nil {
		return nil, fmt.Errorf("read busybox %s: %w", path, err)
	}
	if !static {
		return nil, hint.Wrap(fmt.Errorf("busybox %s is linked dynamically and would not run in an empty image", path), remedy)
	}
	bb := &busybox{}
	if bb.program, err = os.ReadFile(path); err != nil {
		return nil, fmt.Errorf("read busybox: %w", err)
	}
	list, err := exec.CommandContext(ctx, path, "--list-full").Output()
	if err != nil {
		return nil, fmt.Errorf("ask busybox for its applets: %w", err)
	}
	bb.applets = strings.Fields(string(list))
	slices.Sort(bb.applets)
	help, err := exec.CommandContext(ctx, path, "--help").Output()
	if err != nil {
		return nil, fmt.Errorf("ask busybox for its version: %w", err)
	}
	first, _, _ := bytes.Cut(help, []byte("\n"))
	bb.banner = string(first)
	return bb, nil
}

func isStatic(path string) (bool, error) {
	f, err := elf.Open(path)
	if err != nil {
		return false, err
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return false, nil
		}
	}
	return true, nil
}

func (b *busybox) version() string {
	if fields := strings.Fields(b.banner); len(fields) > 1 {
		return strings.TrimPrefix(fields[1], "v")
	}
	return "unknown"
}

// busyboxDirs are the directories of the image, with their modes.
var busyboxDirs = map[string]int64{
	"bin": 0o755, "dev": 0o755, "etc": 0o755, "home": 0o755, "proc": 0o555, "root": 0o700, "run": 0o755,
	"sbin": 0o755, "sys": 0o555, "tmp": 0o1777, "usr": 0o755, "usr/bin": 0o755, "usr/sbin": 0o755,
	"var": 0o755, "var/log": 0o755, "var/spool": 0o755, "var/www": 0o755, "var/tmp": 0o1777,
}

// busyboxFiles are what programs expect to find in /etc.
var busyboxFiles = map[string]string{
	"etc/passwd":        "root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1:daemon:/usr/sbin:/bin/false\nnobody:x:65534:65534:nobody:/home:/bin/false\n",
	"etc/group":         "root:x:0:\ndaemon:x:1:\ntty:x:5:\nnogroup:x:65534:\n",
	"etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
	"etc/shells":        "/bin/sh\n/bin/ash\n",
}

func (b *busybox) write(path string) error {
	l, err := newLayerWriter(path, time.Unix(0, 0))
	if err != nil {
		return err
	}
	return errors.Join(b.entries(l), l.close())
}

func (b *busybox) entries(l *layerWriter) error {
	for _, dir := range sortedKeys(busyboxDirs) {
		if err := l.add(tar.Header{Typeflag: tar.TypeDir, Name: dir + "/", Mode: busyboxDirs[dir]}, ""); err != nil {
			return err
		}
	}
	for _, file := range sortedKeys(busyboxFiles) {
		if err := l.add(tar.Header{Typeflag: tar.TypeReg, Name: file, Mode: 0o644}, busyboxFiles[file]); err != nil {
			return err
		}
	}
	if err := l.add(tar.Header{Typeflag: tar.TypeReg, Name: "bin/busybox", Mode: 0o755}, string(b.program)); err != nil {
		return err
	}
	for _, applet := range b.applets {
		if _, known := busyboxDirs[filepath.Dir(applet)]; !known || applet == "bin/busybox" {
			continue // linuxrc, which lives in the root
		}
		if err := l.add(tar.Header{Typeflag: tar.TypeSymlink, Name: applet, Linkname: "/bin/busybox", Mode: 0o777}, ""); err != nil {
			return err
		}
	}
	return nil
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
