package audit

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"

	"github.com/gantryhq/gantry/internal/logfile"
)

// backwards calls do for the lines of the log at path and of the files it was rotated into, the latest
// first, until do answers false or so many bytes are read. It tells whether it came to the beginning.
func backwards(path string, most int64, do func(line []byte) bool) (all bool, err error) {
	files, err := logfile.Rotated(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, fmt.Errorf("list log files: %w", err)
	}
	files = append(files, path)
	for _, name := range slices.Backward(files) {
		read, all, err := linesBackwards(name, most, do)
		if errors.Is(err, fs.ErrNotExist) {
			continue // removed meanwhile, or not begun
		}
		if err != nil || !all {
			return false, err
		}
		most -= read
	}
	return true, nil
}

// linesBackwards does that for one file.
func linesBackwards(name string, most int64, do func([]byte) bool) (read int64, all bool, err error) {
	f, err := os.Open(name)
	if err != nil {
		return 0, false, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return 0, false, err
	}
	const block = 64 << 10
	var rest []byte // of a line whose beginning is not read yet
	for at := info.Size(); at > 0; {
		n := min(block, at)
		if read+n > most {
			return read, false, nil
		}
		at, read = at-n, read+n
		text := make([]byte, n, n+int64(len(rest)))
		if _, err := f.ReadAt(text, at); err != nil {
			return read, false, err
		}
		text = append(text, rest...)
		for {
			end := bytes.LastIndexByte(text, '\n')
			if end < 0 {
				break
			}
			if line := text[end+1:]; len(line) > 0 && !do(line) {
				return read, false, nil
			}
			text = text[:end]
		}
		rest = text
	}
	return read, len(rest) == 0 || do(rest), nil
}
