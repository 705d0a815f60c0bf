package pipeline

import (
	"fmt"
	"net/http/cgi"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/filemode"
	"github.com/go-git/go-git/v5/plumbing/object"
	"github.com/go-git/go-git/v5/storage/memory"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/gantryhq/gantry/internal/testenv"
)

// served is a repository behind Git's own server, and what makes a commit in it: a
// text for the file "file", which is the message too.
func served(t *testing.T) (*repository, func(text string) (id string)) {
	t.Helper()
	testenv.NeedProgram(t, "git", "git")
	dir := t.TempDir()
	git := func(args ...string) string {
		t.Helper()
		c := exec.Command("git", args...)
		c.Dir = dir
		c.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_AUTHOR_NAME=Ada", "GIT_AUTHOR_EMAIL=ada@example.com",
			"GIT_COMMITTER_NAME=Ada", "GIT_COMMITTER_EMAIL=ada@example.com")
		out, err := c.CombinedOutput()
		if err != nil {
			t.Fatalf("git %s: %v\n%s", strings.Join(args, " "), err, out)
		}
		return strings.TrimSpace(string(out))
	}
	git("init", "-q", "-b", "main", "shop")
	libexec := git("--exec-path")
	server := httptest.NewServer(&cgi.Handler{
		Path: filepath.Join(libexec, "git-http-backend"), Env: []string{"GIT_PROJECT_ROOT=" + dir, "GIT_HTTP_EXPORT_ALL=1", "GIT_CONFIG_GLOBAL=/dev/null"},
	})
	t.Cleanup(server.Close)
	r := &repository{url: server.URL + "/shop/.git", branch: "main", cache: filepath.Join(dir, "cache"), local: true}
	return r, func(text string) string {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, "shop", "file"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		git("-C", "shop", "add", "file")
		git("-C", "shop", "commit", "-q", "-m", text)
		return git("-C", "shop", "rev-parse", "HEAD")
	}
}

// entry is one of a tree, which may be hostile. Directories in names are made as the
// trees that Git would make; the content of a Dir is how many files are in it.
type entry struct {
	name    string
	mode    filemode.FileMode
	content string
}

// commitOf is a commit of a tree that Git itself would refuse to make.
func commitOf(t *testing.T, entries []entry) *object.Commit {
	t.Helper()
	store := memory.NewStorage()
	put := func(o interface {
		Encode(plumbing.EncodedObject) error
	}) plumbing.Hash {
		e := store.NewEncodedObject()
		if err := o.Encode(e); err != nil {
			t.Fatal(err)
		}
		h, err := store.SetEncodedObject(e)
		if err != nil {
			t.Fatal(err)
		}
		return h
	}
	blob := func(text string) plumbing.Hash {
		e := store.NewEncodedObject()
		e.SetType(plumbing.BlobObject)
		w, err := e.Writer()
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprint(w, text)
		h, err := store.SetEncodedObject(e)
		if err != nil {
			t.Fatal(err)
		}
		return h
	}
	root := &object.Tree{}
	for _, e := range entries {
		te := object.TreeEntry{Name: e.name, Mode: e.mode}
		switch dir, rest, nested := strings.Cut(e.name, "/"); {
		case e.mode == filemode.Dir:
			files, err := strconv.Atoi(e.content)
			if err != nil {
				t.Fatal(err)
			}
			inner := &object.Tree{}
			one := blob("x")
			for i := range files {
				inner.Entries = append(inner.Entries, object.TreeEntry{Name: fmt.Sprintf("%07d", i), Mode: filemode.Regular, Hash: one})
			}
			te.Hash = put(inner)
		case nested && dir != "" && dir != "..":
			inner := &object.Tree{Entries: []object.TreeEntry{{Name: rest, Mode: e.mode, Hash: blob(e.content)}}}
			te = object.TreeEntry{Name: dir, Mode: filemode.Dir, Hash: put(inner)}
		default:
			te.Hash = blob(e.content)
		}
		root.Entries = append(root.Entries, te)
	}
	tree := put(root)
	h := put(&object.Commit{TreeHash: tree, Message: "hostile"})
	c, err := object.GetCommit(store, h)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func secretOf(data map[string][]byte) *corev1.Secret {
	return &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "s"}, Data: data}
}

// must ends the test for an error: must(f())(t).
func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}
