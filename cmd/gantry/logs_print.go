package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"io"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"golang.org/x/term"
)

// logLine is one line with where it comes from.
type logLine struct {
	at     int64 // nanoseconds since 1970
	labels map[string]string
	text   string
}

func (l logLine) same(o logLine) bool {
	return l.at == o.at && l.text == o.text && l.labels["pod"] == o.labels["pod"] && l.labels["container"] == o.labels["container"] && l.labels["stream"] == o.labels["stream"]
}

// sortedLines are the lines of an answer, the oldest first. The lines of one log keep their order; in an answer that begins
// with the newest they are turned.
func sortedLines(streams []logStream, newestFirst bool) (lines []logLine) {
	for _, s := range streams {
		for _, v := range s.Values {
			at, err := strconv.ParseInt(v[0], 10, 64)
			if err == nil {
				lines = append(lines, logLine{at, s.Labels, v[1]})
			}
		}
	}
	if newestFirst {
		slices.Reverse(lines)
	}
	slices.SortStableFunc(lines, func(x, y logLine) int { return cmp.Compare(x.at, y.at) })
	return lines
}

// logPrinter writes lines for people, or for programs.
type logPrinter struct {
	out        io.Writer
	colour     bool
	times      bool
	namespaces bool
	json       *json.Encoder // or nil
}

func newLogPrinter(out io.Writer, o *logsFlags, asJSON bool) *logPrinter {
	p := &logPrinter{out: out, times: o.times, namespaces: o.all || o.query != ""}
	if f, ok := out.(*os.File); ok && term.IsTerminal(int(f.Fd())) && os.Getenv("NO_COLOR") == "" {
		p.colour = true
	}
	if asJSON {
		p.json = json.NewEncoder(out)
		p.json.SetEscapeHTML(false)
	}
	return p
}

// podColours are those that can be read on dark and on light.
var podColours = []int{36, 32, 33, 35, 34, 96, 92, 93, 95, 94}

func (p *logPrinter) print(l logLine) error {
	if p.json != nil {
		return p.json.Encode(map[string]any{
			"time": time.Unix(0, l.at).UTC().Format(time.RFC3339Nano), "namespace": l.labels["namespace"], "pod": l.labels["pod"],
			"container": l.labels["container"], "stream": l.labels["stream"], "labels": l.labels, "line": l.text,
		})
	}
	var b strings.Builder
	if p.times {
		b.WriteString(time.Unix(0, l.at).Format("2006-01-02 15:04:05.000 "))
	}
	name := plainText(l.labels["pod"])
	if p.namespaces {
		name = plainText(l.labels["namespace"]) + "/" + name
	}
	if c := l.labels["container"]; c != "" && c != l.labels["app"] && c != l.labels["workload"] {
		name += " " + plainText(c)
	}
	if p.colour {
		h := fnv.New32a()
		_, _ = io.WriteString(h, l.labels["pod"]) // never fails
		fmt.Fprintf(&b, "\x1b[%dm%s\x1b[0m ", podColours[h.Sum32()%uint32(len(podColours))], name)
	} else {
		b.WriteString(name + " ")
	}
	b.WriteString(plainText(l.text))
	b.WriteByte('\n')
	_, err := io.WriteString(p.out, b.String())
	return err
}

// sgr matches what sets colours, which is left out: it says nothing without being interpreted.
var sgr = regexp.MustCompile("\x1b\\[[0-9;:]*m")

// plainText makes of a text from anywhere one that a terminal cannot take for a command: control
// characters, also those that turn the direction of writing, become escapes such as \x1b.
func plainText(s string) string {
	odd := func(r rune) bool {
		return r != '\t' && (unicode.IsControl(r) || unicode.Is(unicode.Cf, r) || r == '\u2028' || r == '\u2029')
	}
	if utf8.ValidString(s) && strings.IndexFunc(s, odd) < 0 {
		return s
	}
	var b strings.Builder
	for _, r := range sgr.ReplaceAllString(s, "") {
		switch {
		case !odd(r):
			b.WriteRune(r)
		case r < 0x100:
			fmt.Fprintf(&b, `\x%02x`, r)
		default:
			fmt.Fprintf(&b, `\u%04x`, r)
		}
	}
	return b.String()
}
