package network

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/gantryhq/gantry/internal/testenv"
)

func TestOnlyOneInstanceChoosesRangesAtATime(t *testing.T) {
	testenv.NeedRoot(t)
	unlock, err := LockRanges(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	impatient, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := LockRanges(impatient); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a second lock while the first is held: %v", err)
	}
	if err := unlock(); err != nil {
		t.Fatal(err)
	}
	unlock, err = LockRanges(t.Context())
	if err != nil {
		t.Fatalf("a lock after the first was released: %v", err)
	}
	if err := unlock(); err != nil {
		t.Fatal(err)
	}
}
