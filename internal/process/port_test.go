package process

import (
	"fmt"
	"net"
	"os"
	"strings"
	"testing"
)

func TestWhoListensAtAPortIsNamed(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(l.Addr().String())
	if got, want := Listening(":"+port), fmt.Sprintf("(pid %d)", os.Getpid()); !strings.HasSuffix(got, want) {
		t.Errorf("%q listens, want %s", got, want)
	}
	l.Close()
	for _, address := range []string{":" + port, "nonsense", ":http-nonsense"} {
		if got := Listening(address); got != "" {
			t.Errorf("%q listens at %s", got, address)
		}
	}
}
