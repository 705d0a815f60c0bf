package main

import (
	"fmt"
	"io"
	"time"
	"unicode/utf8"
)

// table is what happened, for reading at the end.
type table struct{ rows [][3]string }

func (t *table) add(what, took, count string) {
	t.rows = append(t.rows, [3]string{what, took, count})
}

func (t *table) print(out io.Writer) {
	if len(t.rows) == 0 {
		return
	}
	widths := [3]int{}
	for _, row := range t.rows {
		for i, cell := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	fmt.Fprintln(out)
	for _, row := range t.rows {
		fmt.Fprintf(out, "  %-*s   %*s   %*s\n", widths[0], row[0], widths[1], row[1], widths[2], row[2])
	}
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.1f s", d.Seconds()) }
