package restart

import (
	"bufio"
	"context"
	"crypto/sha1"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"
)

// As much of RFC 6455 as an echo needs: frames of up to 125 bytes, whole messages.
const (
	textFrame  = 0x81
	closeFrame = 0x88
	masked     = 0x80
)

// goingAway is the body of a close frame: 1001.
var goingAway = []byte{0x03, 0xe9}

// webSockets are the open ones of a server.
type webSockets struct {
	mu   sync.Mutex
	open map[net.Conn]bool
	none *sync.Cond
}

var sockets = func() *webSockets {
	s := &webSockets{open: map[net.Conn]bool{}}
	s.none = sync.NewCond(&s.mu)
	return s
}()

// goodbye closes them, in the way of the protocol, as far as the peers play along.
func (s *webSockets) goodbye() {
	s.mu.Lock()
	defer s.mu.Unlock()
	limit := time.AfterFunc(time.Second, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		clear(s.open)
		s.none.Broadcast()
	})
	defer limit.Stop()
	for c := range s.open {
		_, _ = c.Write(append([]byte{closeFrame, byte(len(goingAway))}, goingAway...))
	}
	for len(s.open) > 0 {
		s.none.Wait()
	}
}

// echo is the server's side of one.
func echo(c net.Conn, key string) {
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	_, err := fmt.Fprintf(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: %s\r\n\r\n", base64.StdEncoding.EncodeToString(sum[:]))
	if err != nil {
		return
	}
	sockets.mu.Lock()
	sockets.open[c] = true
	sockets.mu.Unlock()
	defer func() {
		sockets.mu.Lock()
		defer sockets.mu.Unlock()
		delete(sockets.open, c)
		sockets.none.Broadcast()
	}()
	in := bufio.NewReader(c)
	for {
		kind, text, err := readFrame(in)
		if err != nil || kind == closeFrame {
			return
		}
		if _, err := c.Write(append([]byte{textFrame, byte(len(text))}, text...)); err != nil {
			return
		}
	}
}

func readFrame(in *bufio.Reader) (kind byte, text []byte, err error) {
	var head [2]byte
	if _, err := io.ReadFull(in, head[:]); err != nil {
		return 0, nil, err
	}
	var mask [4]byte
	if head[1]&masked != 0 {
		if _, err := io.ReadFull(in, mask[:]); err != nil {
			return 0, nil, err
		}
	}
	text = make([]byte, head[1]&^masked)
	if _, err := io.ReadFull(in, text); err != nil {
		return 0, nil, err
	}
	for i := range text {
		text[i] ^= mask[i%4]
	}
	return head[0], text, nil
}

// maskedFrame is a client's; the mask hides nothing.
func maskedFrame(kind byte, text []byte) []byte {
	return append([]byte{kind, masked | byte(len(text)), 0, 0, 0, 0}, text...)
}

// What a conversation consists of.
const (
	messages = 10
	pace     = 100 * time.Millisecond
)

// talk has one conversation over a WebSocket. The server may end it early, but must say
// so: whoever is told opens another one and misses nothing.
func (a *asker) talk(ctx context.Context) error {
	c, err := a.connect(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	deadline, _ := ctx.Deadline()
	if err := c.SetDeadline(deadline); err != nil {
		return err
	}
	if _, err := fmt.Fprintf(c, "GET /talk HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n", a.host); err != nil {
		return err
	}
	res, err := http.ReadResponse(c.in, nil)
	if err != nil {
		return fmt.Errorf("open WebSocket: %w", err)
	}
	if res.StatusCode != http.StatusSwitchingProtocols || res.Header.Get("Sec-Websocket-Accept") != "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" {
		return fmt.Errorf("open WebSocket: %s", res.Status)
	}
	for i := range messages {
		said := fmt.Appendf(nil, "message %d", i)
		// Whether it could be sent the answer tells: a server that ends reads no more.
		_, _ = c.Write(maskedFrame(textFrame, said))
		kind, heard, err := readFrame(c.in)
		switch {
		case err != nil:
			return fmt.Errorf("message %d: %w", i, err)
		case kind == closeFrame:
			_, _ = c.Write(maskedFrame(closeFrame, heard))
			return nil
		case string(heard) != string(said):
			return errors.New("another message came back")
		}
		<-time.After(pace)
	}
	_, err = c.Write(maskedFrame(closeFrame, goingAway))
	return err
}
