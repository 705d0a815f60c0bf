package proxyproto

import (
	"bytes"
	"encoding/binary"
	"io"
	"strings"
	"testing"
)

// v2 makes a header of version 2.
func v2(command, family byte, body []byte) string {
	head := append([]byte(signature), 0x20|command, family)
	head = binary.BigEndian.AppendUint16(head, uint16(len(body)))
	return string(append(head, body...))
}

func TestHeadersNameTheClient(t *testing.T) {
	four := []byte{192, 0, 2, 7, 10, 0, 0, 1, 0xc0, 0x00, 0, 80}
	six := append(append(bytes.Repeat([]byte{0x20}, 16), make([]byte, 16)...), 0x1f, 0x90, 0, 80)
	for header, want := range map[string]string{
		"PROXY TCP4 192.0.2.7 10.0.0.1 49152 80\r\n":      "192.0.2.7:49152",
		"PROXY TCP6 2001:db8::7 2001:db8::1 49152 80\r\n": "[2001:db8::7]:49152",
		"PROXY UNKNOWN\r\n":                               "invalid AddrPort",
		"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n":           "invalid AddrPort",
		v2(1, 0x11, four):                                 "192.0.2.7:49152",
		v2(1, 0x11, append(four[:12:12], 0x04, 0, 1, 0)):  "192.0.2.7:49152",
		v2(1, 0x21, six):                                  "[2020:2020:2020:2020:2020:2020:2020:2020]:8080",
		v2(0, 0x11, four):                                 "invalid AddrPort",
		v2(1, 0, nil):                                     "invalid AddrPort",
	} {
		r := strings.NewReader(header + "GET")
		got, err := Read(r)
		if err != nil || got.String() != want {
			t.Errorf("%q: %v, %v, want %s", header, got, err, want)
		}
		if rest, _ := io.ReadAll(r); string(rest) != "GET" {
			t.Errorf("%q: %q is left, want what follows the header", header, rest)
		}
	}
}

func TestEverythingElseIsRefused(t *testing.T) {
	for _, header := range []string{
		"", "GET / HTTP/1.1\r\nHost: h\r\n\r\n", "PROXY TCP4 192.0.2.7 10.0.0.1 49152\r\n", "PROXY TCP4 2001:db8::7 ::1 1 2\r\n",
		"PROXY TCP6 192.0.2.7 10.0.0.1 1 2\r\n", "PROXY TCP4 192.0.2.7 10.0.0.1 65536 80\r\n", "PROXY UDP4 192.0.2.7 10.0.0.1 1 2\r\n",
		"PROXY TCP6 fe80::1%eth0 ::1 1 2\r\n", "PROXY " + strings.Repeat("x", 200), "PROXY TCP4 192.0.2.7 10.0.0.1 49152 80",
		v2(1, 0x11, []byte{1, 2, 3}), v2(2, 0x11, make([]byte, 12)), v2(1, 0x31, make([]byte, 216)), v2(1, 0x11, make([]byte, MaxHeader+1)),
		signature + "\x31\x11\x00\x0c",
	} {
		if got, err := Read(strings.NewReader(header)); err == nil {
			t.Errorf("%.40q was taken for %v", header, got)
		}
	}
}

func FuzzRead(f *testing.F) {
	f.Add([]byte("PROXY TCP4 192.0.2.7 10.0.0.1 49152 80\r\n"))
	f.Add([]byte(v2(1, 0x11, make([]byte, 12))))
	f.Fuzz(func(t *testing.T, text []byte) {
		r := bytes.NewReader(text)
		if _, err := Read(r); err == nil && len(text)-r.Len() > MaxHeader+16 {
			t.Errorf("%d bytes were read", len(text)-r.Len())
		}
	})
}
