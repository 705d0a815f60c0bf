package shimd

import (
	"fmt"
	"net"
	"os"
	"testing"
	"time"

	"github.com/gantryhq/gantry/engine/shim/protocol"
)

// ask is one request as a client sends it, answered as the shim answers.
func ask(t *testing.T, s *Server, req protocol.Request, files ...*os.File) (protocol.Reply, []*os.File) {
	t.Helper()
	dir := t.TempDir()
	l, err := protocol.Listen(dir, "socket")
	check(t, err)
	defer l.Close()
	served := make(chan error, 1)
	go func() {
		conn, err := l.AcceptUnix()
		if err == nil {
			err = s.serve(conn)
			conn.Close()
		}
		served <- err
	}()
	conn, err := protocol.Dial(dir, "socket")
	check(t, err)
	defer conn.Close()
	req.Version = protocol.Version
	check(t, protocol.Write(conn, req, files...))
	var reply protocol.Reply
	received, err := protocol.Read(conn, &reply)
	check(t, err)
	check(t, <-served)
	return reply, received
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestAKeptSocketQueuesWhileNobodyReads(t *testing.T) {
	s := &Server{}
	bound, err := net.ListenPacket("udp4", "127.0.0.1:0")
	check(t, err)
	addr := bound.LocalAddr().String()
	file, err := bound.(*net.UDPConn).File()
	check(t, err)
	if reply, _ := ask(t, s, protocol.Request{Op: protocol.OpKeep, Files: []string{"dns"}}, file); reply.Error != nil {
		t.Fatal(reply.Error)
	}
	check(t, file.Close())
	check(t, bound.Close()) // the client has died

	sender, err := net.Dial("udp4", addr)
	check(t, err)
	defer sender.Close()
	_, err = sender.Write([]byte("are you there?"))
	check(t, err)

	reply, files := ask(t, s, protocol.Request{Op: protocol.OpKept, Files: []string{"dns", "other"}})
	if fmt.Sprint(reply.Files) != "[dns]" || len(files) != 1 {
		t.Fatalf("kept are %v with %d descriptors", reply.Files, len(files))
	}
	again, err := net.FilePacketConn(files[0])
	check(t, err)
	defer again.Close()
	check(t, files[0].Close())
	check(t, again.SetReadDeadline(time.Now().Add(time.Minute)))
	buf := make([]byte, 64)
	n, _, err := again.ReadFrom(buf)
	if err != nil || string(buf[:n]) != "are you there?" {
		t.Errorf("got %q, %v", buf[:n], err)
	}
}

func TestWhatIsKeptIsBounded(t *testing.T) {
	s := &Server{}
	null, err := os.Open(os.DevNull)
	check(t, err)
	defer null.Close()
	keep := func(name string) *protocol.Error {
		reply, _ := ask(t, s, protocol.Request{Op: protocol.OpKeep, Files: []string{name}}, null)
		return reply.Error
	}
	for i := range 2 * maxKept { // each twice: the second replaces the first
		if err := keep(fmt.Sprint("file-", i/2)); err != nil {
			t.Fatal(err)
		}
	}
	if err := keep("one too many"); err == nil || err.Code != protocol.CodeInvalid {
		t.Errorf("got %v", err)
	}
}
