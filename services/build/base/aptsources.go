package base

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// aptSource is one archive apt gets packages from.
type aptSource struct {
	uri        string
	suite      string
	components []string
}

const (
	publicMirror   = "http://deb.debian.org/debian"
	publicSecurity = "http://deb.debian.org/debian-security"
	keyring        = "/usr/share/keyrings/debian-archive-keyring.gpg"
)

// hostSources are the archives for a Debian suite and its updates that this
// host's apt uses, or the public ones where it uses none.
func hostSources(etcApt, suite string) ([]aptSource, error) {
	all, err := readAptSources(etcApt)
	if err != nil {
		return nil, err
	}
	public := []aptSource{
		{publicMirror, suite, []string{"main"}},
		{publicMirror, suite + "-updates", []string{"main"}},
		{publicSecurity, suite + "-security", []string{"main"}},
	}
	var out []aptSource
	for _, want := range public {
		i := slices.IndexFunc(all, func(s aptSource) bool {
			return s.suite == want.suite && slices.Contains(s.components, "main")
		})
		if i >= 0 {
			want.uri = all[i].uri
			out = append(out, want)
		}
	}
	if len(out) == 0 {
		return public, nil
	}
	if out[0].suite != suite {
		return nil, fmt.Errorf("apt's sources under %s name updates of %s but not %s itself", etcApt, suite, suite)
	}
	return out, nil
}

// readAptSources reads both formats of sources.list(5).
func readAptSources(etcApt string) ([]aptSource, error) {
	files := []string{filepath.Join(etcApt, "sources.list")}
	for _, pattern := range []string{"*.list", "*.sources"} {
		more, err := filepath.Glob(filepath.Join(etcApt, "sources.list.d", pattern))
		if err != nil {
			return nil, err
		}
		files = append(files, more...)
	}
	var out []aptSource
	for _, path := range files {
		f, err := os.Open(path)
		if os.IsNotExist(err) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read apt's sources: %w", err)
		}
		parse := oneLineSources
		if strings.HasSuffix(path, ".sources") {
			parse = deb822Sources
		}
		sources, err := parse(f)
		_ = f.Close() // only read
		if err != nil {
			return nil, fmt.Errorf("read apt's sources in %s: %w", path, err)
		}
		out = append(out, sources...)
	}
	return out, nil
}

// oneLineSources reads "deb [options] uri suite component...".
func oneLineSources(r io.Reader) ([]aptSource, error) {
	var out []aptSource
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		line, _, _ := strings.Cut(lines.Text(), "#")
		kind, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		if kind != "deb" {
			continue
		}
		rest = strings.TrimSpace(rest)
		if strings.HasPrefix(rest, "[") {
			_, rest, _ = strings.Cut(rest, "]")
		}
		if f := strings.Fields(rest); len(f) >= 3 {
			out = append(out, aptSource{strings.TrimSuffix(f[0], "/"), f[1], f[2:]})
		}
	}
	return out, lines.Err()
}

// deb822Sources reads stanzas of "Types:", "URIs:", "Suites:", "Components:".
func deb822Sources(r io.Reader) ([]aptSource, error) {
	text, err := io.ReadAll(r)
	if err != nil {
		return nil, err
	}
	var out []aptSource
	for _, stanza := range strings.Split(string(text), "\n\n") {
		fields := map[string][]string{}
		for _, line := range strings.Split(stanza, "\n") {
			key, value, ok := strings.Cut(line, ":")
			if ok && !strings.HasPrefix(line, "#") && !strings.HasPrefix(line, " ") {
				fields[strings.ToLower(key)] = strings.Fields(value)
			}
		}
		if !slices.Contains(fields["types"], "deb") || slices.Contains(fields["enabled"], "no") {
			continue
		}
		for _, uri := range fields["uris"] {
			for _, suite := range fields["suites"] {
				out = append(out, aptSource{strings.TrimSuffix(uri, "/"), suite, fields["components"]})
			}
		}
	}
	return out, nil
}

// deb822 writes sources the way apt reads them in an image.
func deb822(sources []aptSource) string {
	var b strings.Builder
	for _, s := range sources {
		fmt.Fprintf(&b, "Types: deb\nURIs: %s\nSuites: %s\nComponents: %s\nSigned-By: %s\n\n",
			s.uri, s.suite, strings.Join(s.components, " "), keyring)
	}
	return strings.TrimSuffix(b.String(), "\n")
}
