package pipeline

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-git/go-git/v5/plumbing/filemode"

	"github.com/gantryhq/gantry/api/v1alpha1"
	"github.com/gantryhq/gantry/internal/hint"
)

func TestABranchIsFollowedByFetchingItsCommits(t *testing.T) {
	r, commit := served(t)
	first := commit("one")
	if head, err := r.head(t.Context()); err != nil || head != first {
		t.Fatalf("head %s, %v; want %s", head, err, first)
	}
	second := commit("two")
	dir := filepath.Join(t.TempDir(), "checkout")
	for _, c := range []struct{ ask, id, text string }{{first, first, "one"}, {"", second, "two"}, {first, first, "one"}} {
		got, err := r.fetch(t.Context(), c.ask)
		if err != nil {
			t.Fatal(err)
		}
		if got.Hash.String() != c.id {
			t.Errorf("fetched %s, want %s", got.Hash, c.id)
		}
		if err := checkout(got, dir, checkoutBounds); err != nil {
			t.Fatal(err)
		}
		if text, err := os.ReadFile(filepath.Join(dir, "file")); err != nil || string(text) != c.text {
			t.Errorf("file is %q, %v", text, err)
		}
	}
	d := describe(must(r.fetch(t.Context(), ""))(t))
	if d.ID != second || d.Author != "Ada <ada@example.com>" || d.Message != "two" {
		t.Errorf("described as %+v", d)
	}
}

func TestADamagedCloneIsMadeAnew(t *testing.T) {
	r, commit := served(t)
	commit("one")
	must(r.fetch(t.Context(), ""))(t)
	if err := os.RemoveAll(filepath.Join(r.cache, "objects")); err != nil {
		t.Fatal(err)
	}
	second := commit("two")
	if got, err := r.fetch(t.Context(), ""); err != nil || got.Hash.String() != second {
		t.Errorf("%v, %v", got, err)
	}
}

func TestWhatCannotBeFetchedSaysWhatToDo(t *testing.T) {
	r, commit := served(t)
	commit("one")
	gone := *r
	gone.branch = "gone"
	if _, err := gone.head(t.Context()); err == nil || !strings.Contains(err.Error(), "no branch gone") {
		t.Error(err)
	}
	if _, err := r.fetch(t.Context(), strings.Repeat("a", 40)); err == nil || hint.Of(err) == "" {
		t.Errorf("a commit that is not there: %v", err)
	}
	away := *r
	away.url = "http://127.0.0.1:1/x.git"
	if _, err := away.fetch(t.Context(), ""); err == nil || !transient(err) {
		t.Errorf("a server that is not there is not worth another try: %v", err)
	}
}

func TestHostileTreesStayInside(t *testing.T) {
	for name, tree := range map[string][]entry{
		"traversal":        {{"../escaped", filemode.Regular, "x"}},
		"absolute":         {{"/escaped", filemode.Regular, "x"}},
		"files of Git":     {{".git/config", filemode.Regular, "x"}},
		"in other letters": {{".GIT/hooks/post-checkout", filemode.Executable, "x"}},
		"through a link":   {{"out", filemode.Symlink, ".."}, {"out/escaped", filemode.Regular, "x"}},
		"over a link":      {{"f", filemode.Symlink, "../escaped"}, {"f", filemode.Regular, "x"}},
		"too many files":   {{"many", filemode.Dir, "11"}},
		"too many bytes":   {{"big", filemode.Regular, strings.Repeat("x", 1001)}},
	} {
		t.Run(name, func(t *testing.T) {
			parent := t.TempDir()
			dir := filepath.Join(parent, "checkout")
			if err := checkout(commitOf(t, tree), dir, bounds{files: 10, bytes: 1000}); err == nil {
				t.Error("accepted")
			}
			if _, err := os.Lstat(filepath.Join(parent, "escaped")); err == nil {
				t.Error("written outside")
			}
		})
	}
}

func TestACheckoutLooksAlikeWhenItIs(t *testing.T) {
	times := map[string]time.Time{}
	for _, text := range []string{"same", "same", "other"} {
		dir := filepath.Join(t.TempDir(), "checkout")
		if err := checkout(commitOf(t, []entry{{"f", filemode.Regular, text}, {"link", filemode.Symlink, "/etc/passwd"}}), dir, checkoutBounds); err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(filepath.Join(dir, "f"))
		if err != nil {
			t.Fatal(err)
		}
		if before, ok := times[text]; ok && !before.Equal(info.ModTime()) {
			t.Errorf("%s: %v and %v", text, before, info.ModTime())
		}
		times[text] = info.ModTime()
	}
	if times["same"].Equal(times["other"]) || times["same"].After(time.Now()) {
		t.Errorf("times %v", times)
	}
}

func TestCredentials(t *testing.T) {
	source := v1alpha1.PipelineSource{URL: "git@example.com:acme/shop.git"}
	for says, data := range map[string]map[string][]byte{
		"neither password nor": {},
		"is not a private key": {"ssh-privatekey": []byte("nonsense")},
	} {
		if _, err := newRepository(source, secretOf(data), ""); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("want %q, got %v", says, err)
		}
	}
	r, err := newRepository(v1alpha1.PipelineSource{URL: "https://example.com/x"}, secretOf(map[string][]byte{"password": []byte("t0ken")}), "")
	if err != nil || r.auth == nil || strings.Contains(r.auth.String(), "t0ken") {
		t.Errorf("%v, %v", r, err)
	}
}
