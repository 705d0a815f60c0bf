package protocol

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// maxMessage bounds one message; a list of ten thousand containers is 3 MB.
const maxMessage = 64 << 20

// maxFiles is the largest number of descriptors in one message: the kernel's.
const maxFiles = 253

// Write sends one message: four bytes of length, most significant first, then
// JSON. Files travel as SCM_RIGHTS with its first byte and stay the caller's.
func Write(c *net.UnixConn, message any, files ...*os.File) error {
	body, err := json.Marshal(message)
	if err != nil {
		return fmt.Errorf("encode shim message: %w", err)
	}
	frame := make([]byte, 4+len(body))
	binary.BigEndian.PutUint32(frame, uint32(len(body)))
	copy(frame[4:], body)

	var rights []byte
	if len(files) > 0 {
		fds := make([]int, len(files))
		for i, f := range files {
			fds[i] = int(f.Fd())
		}
		rights = unix.UnixRights(fds...)
	}
	n, _, err := c.WriteMsgUnix(frame, rights, nil)
	if err == nil && n < len(frame) {
		_, err = c.Write(frame[n:])
	}
	if err != nil {
		return fmt.Errorf("write shim message: %w", err)
	}
	return nil
}

// Read receives one message and the descriptors that came with it, which then
// belong to the caller. It returns io.EOF when the peer closed the connection
// between two messages.
func Read(c *net.UnixConn, message any) ([]*os.File, error) {
	header := make([]byte, 4)
	rights := make([]byte, unix.CmsgSpace(maxFiles*4))
	n, rn, _, _, err := c.ReadMsgUnix(header, rights)
	if errors.Is(err, io.EOF) {
		return nil, io.EOF
	}
	if err != nil {
		return nil, err
	}
	files, err := parseRights(rights[:rn])
	if err != nil {
		return nil, err
	}
	if n == 0 {
		return nil, io.EOF
	}
	if err := readBody(c, header, n, message); err != nil {
		closeAll(files)
		return nil, fmt.Errorf("read shim message: %w", err)
	}
	return files, nil
}

func readBody(c *net.UnixConn, header []byte, have int, message any) error {
	if _, err := io.ReadFull(c, header[have:]); err != nil {
		return err
	}
	size := binary.BigEndian.Uint32(header)
	if size > maxMessage {
		return fmt.Errorf("%d bytes announced, %d is the limit", size, maxMessage)
	}
	body := make([]byte, size)
	if _, err := io.ReadFull(c, body); err != nil {
		return err
	}
	return json.Unmarshal(body, message)
}

func parseRights(oob []byte) ([]*os.File, error) {
	if len(oob) == 0 {
		return nil, nil
	}
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, fmt.Errorf("read shim descriptors: %w", err)
	}
	var files []*os.File
	for _, m := range messages {
		fds, err := unix.ParseUnixRights(&m)
		if err != nil {
			continue
		}
		for _, fd := range fds {
			files = append(files, os.NewFile(uintptr(fd), "received"))
		}
	}
	return files, nil
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}

// Dial connects to the unix socket name in dir. The path may be longer than the
// 108 bytes that a socket address can hold.
func Dial(dir, name string) (*net.UnixConn, error) {
	var c *net.UnixConn
	err := viaDescriptor(dir, func(short string) (err error) {
		c, err = net.DialUnix("unix", nil, &net.UnixAddr{Name: filepath.Join(short, name), Net: "unix"})
		return err
	})
	return c, err
}

// Listen listens on the unix socket name in dir, replacing what is there.
func Listen(dir, name string) (*net.UnixListener, error) {
	if err := os.Remove(filepath.Join(dir, name)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	var l *net.UnixListener
	err := viaDescriptor(dir, func(short string) (err error) {
		l, err = net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(short, name), Net: "unix"})
		return err
	})
	if err != nil {
		return nil, err
	}
	// The short path means something else once its descriptor is closed: the
	// owner of the directory removes the socket.
	l.SetUnlinkOnClose(false)
	return l, os.Chmod(filepath.Join(dir, name), 0o600)
}

// viaDescriptor calls f with a path of dir that is always short.
func viaDescriptor(dir string, f func(short string) error) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return f("/proc/self/fd/" + strconv.Itoa(int(d.Fd())))
}
