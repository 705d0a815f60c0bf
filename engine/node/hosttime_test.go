package node

import (
	"testing"
	"time"
)

// A leap is told once, with its size; slow corrections are none.
func TestALeapOfTheClockIsSeen(t *testing.T) {
	var s clockSteps
	now := time.Unix(1_700_000_000, 0)
	lead := time.Hour
	for range 100 { // a time service pulls the clock
		lead += 300 * time.Millisecond
		if _, at := s.note(now, lead); !at.IsZero() {
			t.Fatal("a correction was taken for a leap")
		}
	}
	lead -= 90 * time.Second
	leaped := now.Add(time.Minute)
	for _, look := range []time.Time{leaped, leaped.Add(time.Minute)} {
		if by, at := s.note(look, lead); by != -90*time.Second || !at.Equal(leaped) {
			t.Errorf("at %v: a leap by %v at %v", look, by, at)
		}
	}
}
