package logql

import (
	"bytes"
	"encoding/json"
	"strconv"
	"strings"

	"github.com/prometheus/prometheus/model/labels"
)

// parserStage finds labels in a line; a line that it does not understand goes on with errorLabel.
type parserStage func(text []byte, put func(name, value string)) (errorType string)

// errorLabel says of a line why it could not be parsed.
const errorLabel = "__error__"

// maxExtracted is how many labels are taken from one line.
const maxExtracted = 100

func (p parserStage) Pass(l *Line) bool {
	failure := p(l.Text, func(name, value string) {
		if name = labelName(name); name == "" || len(l.Extracted) >= maxExtracted {
			return
		}
		if l.Stream.Has(name) {
			name += "_extracted"
		}
		l.Extracted = append(l.Extracted, labels.Label{Name: name, Value: strings.ToValidUTF8(value, "\uFFFD")})
	})
	if failure != "" {
		l.Extracted = append(l.Extracted, labels.Label{Name: errorLabel, Value: failure})
	}
	return true
}

// labelName makes a key a label's name.
func labelName(key string) string {
	name := []byte(key)
	for i, c := range name {
		if !letter(c) && !digit(c) {
			name[i] = '_'
		}
	}
	if len(name) > 0 && digit(name[0]) {
		return "_" + string(name)
	}
	return string(name)
}

func parseJSON(text []byte, put func(name, value string)) string {
	var object map[string]any
	if text = bytes.TrimSpace(text); len(text) == 0 || text[0] != '{' {
		return "JSONParserErr"
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	if d.Decode(&object) != nil {
		return "JSONParserErr"
	}
	flatten("", object, put)
	return ""
}

// flatten names what is nested by the keys on the way; lists are left out.
func flatten(prefix string, object map[string]any, put func(name, value string)) {
	for k, v := range object {
		switch v := v.(type) {
		case map[string]any:
			flatten(prefix+k+"_", v, put)
		case string:
			put(prefix+k, v)
		case json.Number:
			put(prefix+k, v.String())
		case bool:
			put(prefix+k, strconv.FormatBool(v))
		}
	}
}

// parseLogfmt reads key=value and key="value" pairs (as github.com/kr/logfmt describes them). A word without a value is no label.
func parseLogfmt(text []byte, put func(name, value string)) string {
	rest := string(text)
	for {
		rest = strings.TrimLeft(rest, " \t")
		if rest == "" {
			return ""
		}
		i := strings.IndexAny(rest, "= \t")
		if i < 0 || rest[i] != '=' {
			if i < 0 {
				return ""
			}
			rest = rest[i:]
			continue
		}
		key := rest[:i]
		rest = rest[i+1:]
		if !strings.HasPrefix(rest, `"`) {
			n := strings.IndexAny(rest, " \t")
			if n < 0 {
				n = len(rest)
			}
			put(key, rest[:n])
			rest = rest[n:]
			continue
		}
		n, err := quoted(rest)
		if err != nil {
			return "LogfmtParserErr"
		}
		value, err := strconv.Unquote(rest[:n])
		if err != nil {
			value = rest[1 : n-1]
		}
		put(key, value)
		rest = rest[n:]
	}
}

// levels are the words by which a line tells how grave it is, the gravest first.
var levels = []struct {
	name  string
	words []string
}{
	{"fatal", []string{"fatal", "panic", "emerg", "alert"}},
	{"critical", []string{"critical", "crit"}},
	{"error", []string{"error", "err", "severe", "exception"}},
	{"warn", []string{"warn", "warning"}},
	{"debug", []string{"debug"}},
	{"trace", []string{"trace"}},
	{"info", []string{"info", "information", "notice"}},
}

var levelOf = func() map[string]string {
	m := map[string]string{}
	for _, l := range levels {
		for _, w := range l.words {
			m[w] = l.name
		}
	}
	return m
}()

// levelKeys are the keys that a level follows in JSON and logfmt.
var levelKeys = [][]byte{[]byte(`level`), []byte(`lvl`), []byte(`severity`)}

// maxLevelText is how much of a line is searched for a level.
const maxLevelText = 256

// Level guesses how grave a line is: by a field named level, lvl or severity, else by the first word
// that names a level, else it is "unknown".
func Level(text []byte) string {
	text = text[:min(len(text), maxLevelText)]
	for _, key := range levelKeys {
		at := bytes.Index(text, key)
		if at < 0 {
			continue
		}
		after := bytes.TrimLeft(text[at+len(key):], `"':= `)
		if l := levelOf[strings.ToLower(string(after[:wordLen(after)]))]; l != "" {
			return l
		}
	}
	for rest := text; len(rest) > 0; {
		n := wordLen(rest)
		if n == 0 {
			rest = rest[1:]
			continue
		}
		if n <= len("information") {
			if l := levelOf[strings.ToLower(string(rest[:n]))]; l != "" {
				return l
			}
		}
		rest = rest[n:]
	}
	return "unknown"
}

func wordLen(b []byte) int {
	for i, c := range b {
		if !letter(c) && !digit(c) {
			return i
		}
	}
	return len(b)
}
