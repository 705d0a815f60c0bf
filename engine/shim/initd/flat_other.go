//go:build !amd64

package initd

// FlatProgram is nil: there is none for this processor yet.
func FlatProgram() []byte { return nil }
