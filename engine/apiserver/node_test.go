package apiserver

import (
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
)

func TestTheEndOfAnAgentsAnswerComesApartFromItsLastBytes(t *testing.T) {
	body := endApart{io.NopCloser(iotest.DataErrReader(strings.NewReader("hello\n")))}
	buf := make([]byte, 100)
	if n, err := body.Read(buf); string(buf[:n]) != "hello\n" || err != nil {
		t.Errorf("read %q, %v", buf[:n], err)
	}
	if n, err := body.Read(buf); n != 0 || !errors.Is(err, io.EOF) {
		t.Errorf("after the end: read %q, %v", buf[:n], err)
	}
}
