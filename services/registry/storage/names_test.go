package storage

import (
	"regexp"
	"strings"
	"testing"
)

// The grammar as the OCI Distribution Specification writes it.
var (
	nameGrammar = regexp.MustCompile(`^[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(\/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*$`)
	tagGrammar  = regexp.MustCompile(`^[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}$`)
	idGrammar   = regexp.MustCompile(`^[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)
)

func FuzzNamesFollowTheGrammarOfTheSpecification(f *testing.F) {
	for _, seed := range []string{
		"", "a", "shop/cart", "a/b/c", "a//b", "/a", "a/", "a.b", "a..b", "a_b", "a__b", "a___b", "a-b", "a---b", "a-.b", "a._b", "-a", "a-", ".a", "_a", "A", "a b",
		"..", "a/../b", "a/_layers", "é", "a\x00", "latest", "v1.0-rc_1", ".hidden", strings.Repeat("t", 128), strings.Repeat("t", 129), "a/b-", "a\n",
		"6c4d5a70-0000-4000-8000-000000000000", "6c4d5a70-0000-4000-8000-00000000000g", "6c4d5a7000000-4000-8000-000000000000-", newID(),
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if got := isName(text); got != nameGrammar.MatchString(text) {
			t.Errorf("name %q: %v", text, got)
		}
		if got := isTag(text); got != tagGrammar.MatchString(text) {
			t.Errorf("tag %q: %v", text, got)
		}
		if got := isID(text); got != idGrammar.MatchString(text) {
			t.Errorf("upload %q: %v", text, got)
		}
	})
}
