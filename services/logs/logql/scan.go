package logql

import (
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

type kind int

const (
	end kind = iota
	selector
	word
	number // also lengths of time and sizes: 5m, 1.5, 10KB
	quotation
	punctuation
)

// token is a piece of a question. The text of a string is what it stands for.
type token struct {
	kind kind
	text string
	at   int // bytes before it
}

var symbols = []string{"|=", "|~", "|>", "!=", "!~", "!>", "=~", "==", ">=", "<=", "|", "=", ">", "<", "(", ")", "[", "]", ",", "+", "-", "*", "/"}

// scan cuts a question into tokens, of which the last one is the end.
func scan(s string) (tokens []token, err error) {
	for at := 0; at < len(s); {
		c := s[at]
		t := token{at: at}
		n := 1
		switch {
		case strings.IndexByte(" \t\r\n", c) >= 0:
			at++
			continue
		case c == '#': // a comment
			for at < len(s) && s[at] != '\n' {
				at++
			}
			continue
		case c == '{':
			t.kind = selector
			if n, err = braces(s[at:]); err == nil {
				t.text = s[at : at+n]
			}
		case c == '"' || c == '`':
			t.kind = quotation
			if n, err = quoted(s[at:]); err == nil {
				t.text, err = strconv.Unquote(s[at : at+n])
			}
		case letter(c):
			t.kind = word
			for n < len(s)-at && (letter(s[at+n]) || digit(s[at+n])) {
				n++
			}
			t.text = s[at : at+n]
		case digit(c):
			t.kind = number
			for n < len(s)-at && (letter(s[at+n]) || digit(s[at+n]) || s[at+n] == '.') {
				n++
			}
			t.text = s[at : at+n]
		default:
			t.kind = punctuation
			for _, symbol := range symbols {
				if strings.HasPrefix(s[at:], symbol) {
					t.text = symbol
					break
				}
			}
			if n = len(t.text); n == 0 {
				r, _ := utf8.DecodeRuneInString(s[at:])
				err = fmt.Errorf("%q is not expected", r)
			}
		}
		if err != nil {
			return nil, fmt.Errorf("parse error at position %d: %w", at+1, err)
		}
		tokens = append(tokens, t)
		at += n
	}
	return append(tokens, token{kind: end, at: len(s)}), nil
}

func letter(c byte) bool { return c == '_' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' }
func digit(c byte) bool  { return '0' <= c && c <= '9' }

// quoted is how long the string at the begin of s is.
func quoted(s string) (int, error) {
	for i := 1; i < len(s); i++ {
		switch {
		case s[i] == '\\' && s[0] == '"':
			i++
		case s[i] == s[0]:
			return i + 1, nil
		}
	}
	return 0, fmt.Errorf("the string has no end")
}

// braces is how long the selector at the begin of s is.
func braces(s string) (int, error) {
	for i := 1; i < len(s); i++ {
		switch s[i] {
		case '"', '`', '\'':
			n, err := quoted(s[i:])
			if err != nil {
				return 0, err
			}
			i += n - 1
		case '}':
			return i + 1, nil
		}
	}
	return 0, fmt.Errorf("the stream selector has no end")
}
