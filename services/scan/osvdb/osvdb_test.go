package osvdb

import (
	"archive/zip"
	"context"
	"errors"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/registry"
)

// records is a small database of each way in which records say what is affected.
var records = map[string]string{
	"debian.json": `{"id":"DEBIAN-CVE-2024-1","modified":"2024-05-01T00:00:00Z","upstream":["CVE-2024-1"],"details":"A flaw.\nMore.",
		"severity":[{"type":"CVSS_V3","score":"CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:H/I:H/A:H"}],
		"affected":[
		 {"package":{"ecosystem":"Debian:12","name":"openssl"},"ranges":[{"type":"ECOSYSTEM","events":[{"introduced":"0"},{"fixed":"3.0.11-1~deb12u2"}]}]},
		 {"package":{"ecosystem":"Debian:11","name":"openssl"},"ranges":[{"type":"ECOSYSTEM","events":[{"introduced":"0"},{"fixed":"1.1.1w-0+deb11u1"}]}]}]}`,
	"unfixed.json": `{"id":"DEBIAN-CVE-2024-2","modified":"2024-04-01T00:00:00Z",
		"affected":[{"package":{"ecosystem":"Debian:12","name":"openssl"},"ranges":[{"type":"ECOSYSTEM","events":[{"introduced":"3.0.0"}]}],"ecosystem_specific":{"urgency":"unimportant"}}]}`,
	"python.json": `{"id":"GHSA-x","modified":"2024-04-01T00:00:00Z","aliases":["CVE-2024-3"],"summary":"Injection","database_specific":{"severity":"MODERATE"},
		"affected":[{"package":{"ecosystem":"PyPI","name":"My_Pkg.x"},"ranges":[
		  {"type":"GIT","events":[{"introduced":"0"}]},
		  {"type":"ECOSYSTEM","events":[{"introduced":"1.0"},{"fixed":"1.2"},{"introduced":"2.0rc1"},{"last_affected":"2.1"}]}]}]}`,
	"malware.json":   `{"id":"MAL-1","modified":"2024-04-01T00:00:00Z","affected":[{"package":{"ecosystem":"npm","name":"evil"},"versions":["6.6.6"]}]}`,
	"withdrawn.json": `{"id":"GHSA-w","modified":"2024-04-01T00:00:00Z","withdrawn":"2024-04-02T00:00:00Z","affected":[{"package":{"ecosystem":"npm","name":"good"},"ranges":[{"type":"SEMVER","events":[{"introduced":"0"}]}]}]}`,
	"ubuntu.json": `{"id":"UBUNTU-CVE-2024-4","modified":"2024-04-01T00:00:00Z","severity":[{"type":"Ubuntu","score":"high"}],
		"affected":[{"package":{"ecosystem":"Ubuntu:22.04:LTS","name":"bash"},"ranges":[{"type":"ECOSYSTEM","events":[{"introduced":"0"},{"fixed":"5.2"}]}]},
		{"package":{"ecosystem":"Ubuntu:Pro:22.04:LTS","name":"zsh"},"ranges":[{"type":"ECOSYSTEM","events":[{"introduced":"0"}]}]}]}`,
	"git.json": `{"id":"OSV-1","modified":"2024-04-01T00:00:00Z","affected":[{"package":{"ecosystem":"OSS-Fuzz","name":"x"},"ranges":[{"type":"GIT","events":[{"introduced":"0"}]}]}]}`,
}

func TestWhichVersionsAreAffected(t *testing.T) {
	db := openRecords(t)
	for _, c := range []struct {
		ecosystem, name, version, want string // "ID severity fixed, ..."
	}{
		{"Debian:12", "openssl", "3.0.9-1", "DEBIAN-CVE-2024-1 critical 3.0.11-1~deb12u2, DEBIAN-CVE-2024-2 negligible -"},
		{"Debian:12", "openssl", "3.0.11-1~deb12u2", "DEBIAN-CVE-2024-2 negligible -"},
		{"Debian:12", "openssl", "1.1.1", "DEBIAN-CVE-2024-1 critical 3.0.11-1~deb12u2"},
		{"Debian:11", "openssl", "1.1.1w-0+deb11u1", ""},
		{"Debian:13", "openssl", "1.0", ""},
		{"PyPI", "my-pkg-x", "1.1.9", "GHSA-x medium 1.2"},
		{"PyPI", "my-pkg-x", "1.2", ""},
		{"PyPI", "My.Pkg_X", "2.0", "GHSA-x medium -"},
		{"PyPI", "my-pkg-x", "2.1", "GHSA-x medium -"},
		{"PyPI", "my-pkg-x", "2.1.1", ""},
		{"PyPI", "my-pkg-x", "0.9", ""},
		{"npm", "evil", "6.6.6", "MAL-1 critical -"},
		{"npm", "evil", "6.6.7", ""},
		{"npm", "good", "1.0.0", ""},
		{"npm", "evi", "6.6.6", ""},
		{"Ubuntu:22.04", "bash", "5.1", "UBUNTU-CVE-2024-4 high 5.2"},
		{"Ubuntu:24.04", "bash", "5.1", ""},
		{"Ubuntu:22.04", "zsh", "1", ""},
		{"Nonsense", "bash", "1", ""},
		{"", "bash", "1", ""},
	} {
		got, err := db.Match(Package{c.ecosystem, c.name, c.version})
		must(t, err)
		var text []string
		for _, m := range got {
			fixed := m.Fixed
			if fixed == "" {
				fixed = "-"
			}
			text = append(text, m.ID+" "+m.Severity.String()+" "+fixed)
		}
		if s := strings.Join(text, ", "); s != c.want {
			t.Errorf("%s %s %s: %q, want %q", c.ecosystem, c.name, c.version, s, c.want)
		}
	}
	if got, _ := db.Match(Package{"Debian:12", "openssl", "3.0.9-1"}); got[0].Score != 9.8 || got[0].Summary != "A flaw." || !slices.Equal(got[0].Aliases, []string{"CVE-2024-1"}) {
		t.Errorf("advisory %+v", got[0])
	}
	about := db.About()
	if about.Records != 7 || about.Skipped != 2 || about.Ecosystems["Debian"] != 2 || about.Newest.Year() != 2024 || about.Newest.Month() != 5 {
		t.Errorf("about %+v", about)
	}
}

func TestADatabaseTravelsThroughARegistry(t *testing.T) {
	srv := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	t.Cleanup(srv.Close)
	ref := Reference(strings.TrimPrefix(srv.URL, "http://"))
	ctx, dir := context.Background(), t.TempDir()
	if _, err := Look(ctx, ref); !errors.Is(err, ErrNone) {
		t.Errorf("an empty registry: %v", err)
	}
	file := importRecords(t, writeRecords(t))
	pushed, err := Push(ctx, file, ref)
	must(t, err)
	again, err := Push(ctx, importRecords(t, writeRecords(t)), ref)
	must(t, err)
	if again.Digest != pushed.Digest {
		t.Errorf("the same records made %s and %s", pushed.Digest, again.Digest)
	}
	stale := filepath.Join(dir, "sha256-old.db")
	must(t, os.WriteFile(stale, nil, 0o644))
	path, status, err := Fetch(ctx, ref, dir)
	must(t, err)
	if status.Digest != pushed.Digest || status.Records != 7 {
		t.Errorf("fetched %+v", status)
	}
	if _, err := os.Stat(stale); !os.IsNotExist(err) {
		t.Errorf("the old database stayed: %v", err)
	}
	db, err := Open(path)
	must(t, err)
	if got, err := db.Match(Package{"npm", "evil", "6.6.6"}); err != nil || len(got) != 1 {
		t.Errorf("fetched database: %v, %v", got, err)
	}
	must(t, db.Close())
	files, _ := filepath.Glob(filepath.Join(dir, "*"))
	hidden, _ := filepath.Glob(filepath.Join(dir, ".*"))
	if len(files)+len(hidden) != 1 {
		t.Errorf("left %v %v", files, hidden)
	}
}

func TestWhatIsNoDatabaseIsRefused(t *testing.T) {
	ctx, dir := context.Background(), t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		must(t, os.WriteFile(path, []byte(text), 0o644))
		return path
	}
	for name, source := range map[string]string{
		"no JSON":       write("a.json", "{"),
		"no id":         write("b.json", `{"affected":[]}`),
		"no zip":        write("c.zip", "PK nothing"),
		"missing":       filepath.Join(dir, "missing"),
		"empty archive": zipped(t, nil),
		"bad in zip":    zipped(t, map[string]string{"x.json": "nope"}),
	} {
		out := filepath.Join(t.TempDir(), "osv.db")
		if _, err := Import(ctx, out, []string{source}, nil); err == nil {
			t.Errorf("%s was imported", name)
		}
		if _, err := os.Stat(out); !os.IsNotExist(err) {
			t.Errorf("%s left a file", name)
		}
	}
	if _, err := Open(write("d.db", strings.Repeat("no database ", 1000))); err == nil {
		t.Error("opened what is no database")
	}
}

func openRecords(t *testing.T) *DB {
	t.Helper()
	db, err := Open(importRecords(t, zipped(t, records)))
	must(t, err)
	t.Cleanup(func() { _ = db.Close() })
	return db
}

func importRecords(t *testing.T, source string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "osv.db")
	_, err := Import(context.Background(), file, []string{source}, nil)
	must(t, err)
	return file
}

func writeRecords(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range records {
		must(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644))
	}
	return dir
}

func zipped(t *testing.T, files map[string]string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "all.zip")
	f, err := os.Create(path)
	must(t, err)
	z := zip.NewWriter(f)
	for name, text := range files {
		w, err := z.Create(name)
		must(t, err)
		_, err = io.WriteString(w, text)
		must(t, err)
	}
	must(t, errors.Join(z.Close(), f.Close()))
	return path
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
