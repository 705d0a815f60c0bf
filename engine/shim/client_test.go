package shim

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gantryhq/gantry/engine/shim/protocol"
)

// script returns a program that stands in for the shim.
func script(t *testing.T, text string) func() (string, error) {
	path := filepath.Join(t.TempDir(), "shim")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+text+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	return func() (string, error) { return path, nil }
}

func TestAShimThatCannotStartIsQuoted(t *testing.T) {
	c := New(t.TempDir(), script(t, "echo 'error: no room on this host' >&2; exit 1"))
	if err := c.Ensure(t.Context()); err == nil || !strings.Contains(err.Error(), "no room on this host") {
		t.Errorf("error %v", err)
	}
	missing := New(t.TempDir(), func() (string, error) { return "", fs.ErrNotExist })
	if err := missing.Ensure(t.Context()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no executable: %v", err)
	}
}

// answering is a shim that gives every request the same reply.
func answering(t *testing.T, reply protocol.Reply) *Client {
	t.Helper()
	dir := t.TempDir()
	l, err := protocol.Listen(dir, protocol.SocketName)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.AcceptUnix()
			if err != nil {
				return
			}
			go answer(conn, reply)
		}
	}()
	return New(dir, nil)
}

func answer(conn *net.UnixConn, reply protocol.Reply) {
	defer conn.Close()
	var req protocol.Request
	if _, err := protocol.Read(conn, &req); err == nil {
		protocol.Write(conn, reply)
	}
}

func TestAShimOfAnotherVersionIsRefusedWithTheWayOut(t *testing.T) {
	err := answering(t, protocol.Reply{Version: protocol.Version + 1, PID: 7}).Ensure(t.Context())
	if err == nil || !strings.Contains(err.Error(), "gantry down --all") || !strings.Contains(err.Error(), "pid 7") {
		t.Errorf("error %v", err)
	}
}

func TestFeaturesOfTheShimThatRuns(t *testing.T) {
	old := answering(t, protocol.Reply{Version: protocol.Version})
	if can, err := old.Can(t.Context(), protocol.FeatureLaunch); can || err != nil {
		t.Errorf("a shim of an earlier release can launch: %v, %v", can, err)
	}
	this := answering(t, protocol.Reply{Version: protocol.Version, Features: []string{protocol.FeatureLaunch}})
	if can, err := this.Can(t.Context(), protocol.FeatureLaunch); !can || err != nil {
		t.Errorf("a shim of this release cannot launch: %v", err)
	}
}

func TestUnknownContainersDoNotExist(t *testing.T) {
	c := answering(t, protocol.Reply{Error: protocol.Errorf(protocol.CodeNotFound, "the shim knows no container %q", "x")})
	if err := c.Forget(t.Context(), "x", time.Second); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("error %v", err)
	}
}

func TestInstallReplacesOnlyAnotherVersion(t *testing.T) {
	if _, err := Binary(); err != nil {
		if !strings.Contains(err.Error(), "make build") {
			t.Fatalf("error %v does not name the remedy", err)
		}
		t.Skip("built without the shim: run `make build` first")
	}
	dir := t.TempDir()
	path, err := Install(dir)
	if err != nil {
		t.Fatal(err)
	}
	first, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Install(dir); err != nil {
		t.Fatal(err)
	}
	if second, err := os.Stat(path); err != nil || !os.SameFile(first, second) {
		t.Error("the same shim was installed twice")
	}
	if err := os.WriteFile(path, []byte("old"), 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := Install(dir); err != nil {
		t.Fatal(err)
	}
	if now, err := os.Stat(path); err != nil || now.Size() != first.Size() || now.Mode().Perm() != 0o755 {
		t.Errorf("after an upgrade: %v, %v", now, err)
	}
}
