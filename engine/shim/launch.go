package shim

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/gantryhq/gantry/engine/shim/protocol"
)

// launchTimeout bounds the start of a shim, which takes milliseconds.
const launchTimeout = 10 * time.Second

// logName is the shim's own log, in its directory.
const logName = "shim.log"

// Ensure starts a shim when none answers, and checks that it can be talked to.
func (c *Client) Ensure(ctx context.Context) error {
	c.starting.Lock()
	defer c.starting.Unlock()
	conn, err := protocol.Dial(c.dir, protocol.SocketName)
	if err == nil {
		conn.Close()
		return c.checkVersion()
	}
	if !unavailable(err) {
		return fmt.Errorf("reach the container shim: %w", err)
	}
	if err := c.launch(ctx); err != nil {
		return fmt.Errorf("start the container shim: %w", err)
	}
	return c.checkVersion()
}

// checkVersion refuses a shim of another release that cannot be talked to.
func (c *Client) checkVersion() error {
	conn, err := protocol.Dial(c.dir, protocol.SocketName)
	if err != nil {
		return fmt.Errorf("reach the container shim: %w", err)
	}
	defer conn.Close()
	if err := protocol.Write(conn, protocol.Request{Version: protocol.Version, Op: protocol.OpHello}); err != nil {
		return err
	}
	reply, err := receive(conn)
	if err != nil {
		return err
	}
	if reply.Version != protocol.Version {
		return fmt.Errorf("the running container shim (pid %d) speaks protocol version %d and this gantry %d: "+
			"run `gantry down --all` with the version of gantry that started the containers, then start this one",
			reply.PID, reply.Version, protocol.Version)
	}
	c.mu.Lock()
	c.features = reply.Features
	c.mu.Unlock()
	return nil
}

// launch starts a shim that outlives this process and waits until it answers.
func (c *Client) launch(ctx context.Context) error {
	path, err := c.binary()
	if err != nil {
		return err
	}
	log, err := os.OpenFile(filepath.Join(c.dir, logName), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	before, err := log.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	ready, child, err := os.Pipe()
	if err != nil {
		return err
	}
	defer ready.Close()
	cmd := exec.Command(path, "serve", "--dir", c.dir)
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=" + os.Getenv("PATH")}
	cmd.Stdout = child
	cmd.Stderr = log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = cmd.Start()
	child.Close()
	if err != nil {
		return err
	}
	go cmd.Wait() // collects it should it end while this process lives

	stop := context.AfterFunc(ctx, func() { ready.SetReadDeadline(time.Now()) })
	defer stop()
	ready.SetReadDeadline(time.Now().Add(launchTimeout))
	if _, err := io.ReadFull(ready, make([]byte, len("ready"))); err != nil {
		return fmt.Errorf("it did not become ready (%w)%s", err, lastWords(log.Name(), before))
	}
	return nil
}

// lastWords quotes what the shim logged after offset.
func lastWords(path string, offset int64) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	b, err := io.ReadAll(io.NewSectionReader(f, offset, 4096))
	if err != nil || len(b) == 0 {
		return ""
	}
	return ": " + string(bytes.TrimSpace(b))
}

// Install writes the embedded shim to dir and returns its path. A shim that
// runs keeps the file it was started from.
func Install(dir string) (string, error) {
	binary, err := Binary()
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "gantry-shim")
	if have, err := os.ReadFile(path); err == nil && bytes.Equal(have, binary) {
		return path, nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	temp, err := os.CreateTemp(dir, ".gantry-shim-*")
	if err != nil {
		return "", err
	}
	defer os.Remove(temp.Name())
	_, err = temp.Write(binary)
	err = errors.Join(err, temp.Chmod(0o755), temp.Close())
	if err == nil {
		err = os.Rename(temp.Name(), path)
	}
	if err != nil {
		return "", fmt.Errorf("install the container shim: %w", err)
	}
	return path, nil
}
