package protocol

import (
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// pair returns both ends of a connection through a socket with a long path.
func pair(t *testing.T) (client, server *net.UnixConn) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), strings.Repeat("long", 40))
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	l, err := Listen(dir, SocketName)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if client, err = Dial(dir, SocketName); err != nil {
		t.Fatal(err)
	}
	if server, err = l.AcceptUnix(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close(); server.Close() })
	return client, server
}

func TestMessagesCarryFiles(t *testing.T) {
	client, server := pair(t)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	go func() {
		Write(client, Request{Op: OpExec, ID: "a", Files: []string{"stdout"}}, w)
		w.Close()
		Write(client, Request{Op: OpList})
	}()
	var req Request
	files, err := Read(server, &req)
	if err != nil || req.ID != "a" || len(files) != 1 {
		t.Fatalf("request %+v with %d files, %v", req, len(files), err)
	}
	if _, err := files[0].WriteString("hello"); err != nil {
		t.Fatal(err)
	}
	files[0].Close()
	if b, err := io.ReadAll(r); err != nil || string(b) != "hello" {
		t.Errorf("through the file came %q, %v", b, err)
	}
	if files, err := Read(server, &req); err != nil || req.Op != OpList || len(files) != 0 {
		t.Errorf("second request %+v with %d files, %v", req, len(files), err)
	}
	client.Close()
	if _, err := Read(server, &req); err != io.EOF {
		t.Errorf("after the end: %v, want io.EOF", err)
	}
}

func TestLargeMessages(t *testing.T) {
	client, server := pair(t)
	states := make([]State, 20000)
	for i := range states {
		states[i] = State{ID: strings.Repeat("x", 60), Phase: Running}
	}
	go Write(client, Reply{States: states})
	var reply Reply
	if _, err := Read(server, &reply); err != nil || len(reply.States) != len(states) {
		t.Errorf("%d states, %v", len(reply.States), err)
	}
}

func TestNonsenseIsRefused(t *testing.T) {
	for name, bytes := range map[string]string{
		"a length beyond the limit": "\xff\xff\xff\xff",
		"half a message":            "\x00\x00\x00\x10{\"op\"",
		"no JSON":                   "\x00\x00\x00\x03abc",
	} {
		client, server := pair(t)
		client.Write([]byte(bytes))
		client.Close()
		var req Request
		if _, err := Read(server, &req); err == nil || errors.Is(err, io.EOF) && name != "half a message" && err == io.EOF {
			t.Errorf("%s: error %v", name, err)
		}
	}
}
