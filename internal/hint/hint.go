// Package hint attaches the next step to an error.
//
// Gantry's command line prints a failure as `error: ...` and, where the error
// chain carries one, `hint: ...` below it. Any package may wrap an error with a
// hint; only cmd/gantry prints them.
package hint

import (
	"errors"
	"fmt"
)

type hinted struct {
	error
	hint string
}

func (h hinted) Unwrap() error { return h.error }

// Wrap returns err with a sentence that says what to do next. A nil err stays nil.
func Wrap(err error, format string, args ...any) error {
	if err == nil {
		return nil
	}
	return hinted{err, fmt.Sprintf(format, args...)}
}

// Of returns the outermost hint in err's chain, or "".
func Of(err error) string {
	var h hinted
	if errors.As(err, &h) {
		return h.hint
	}
	return ""
}
