package hint

import (
	"errors"
	"fmt"
	"io/fs"
	"testing"
)

func TestAHintSurvivesWrapping(t *testing.T) {
	err := fmt.Errorf("start: %w", Wrap(fmt.Errorf("open %q: %w", "x", fs.ErrNotExist), "run `%s`", "make build"))
	if got := Of(err); got != "run `make build`" {
		t.Errorf("Of = %q", got)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		t.Error("the cause is lost")
	}
	if Wrap(nil, "x") != nil {
		t.Error("a nil error got a hint")
	}
	if Of(fs.ErrNotExist) != "" {
		t.Error("a hint out of nothing")
	}
}
