package pipeline

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/go-git/go-git/v5"
	"github.com/go-git/go-git/v5/config"
	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/filemode"
	"github.com/go-git/go-git/v5/plumbing/object"
	"github.com/go-git/go-git/v5/plumbing/transport"
	githttp "github.com/go-git/go-git/v5/plumbing/transport/http"
	gitssh "github.com/go-git/go-git/v5/plumbing/transport/ssh"
	"github.com/go-git/go-git/v5/storage/memory"
	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/gantryhq/gantry/api/v1alpha1"
	"github.com/gantryhq/gantry/internal/hint"
)

// bounds are how much a checkout may be.
type bounds struct {
	files int
	bytes int64
}

var checkoutBounds = bounds{files: 200_000, bytes: 2 << 30}

const (
	maxFetchBytes = 1 << 30
	askPatience   = 30 * time.Second
	fetchPatience = 10 * time.Minute
)

// repository is a branch that a Pipeline follows.
type repository struct {
	url, branch string
	auth        transport.AuthMethod // or nil
	cache       string               // directory of the clone
	local       bool                 // it may be at an address of this machine
}

// newRepository reads the credentials. secret may be nil.
func newRepository(src v1alpha1.PipelineSource, secret *corev1.Secret, cache string) (*repository, error) {
	r := &repository{url: src.URL, branch: src.Branch, cache: cache}
	if secret == nil {
		return r, nil
	}
	if key := secret.Data[corev1.SSHAuthPrivateKey]; len(key) > 0 {
		user := "git"
		if u, err := url.Parse(src.URL); err == nil && u.User.Username() != "" {
			user = u.User.Username()
		} else if name, _, ok := strings.Cut(src.URL, "@"); ok && err != nil {
			user = name
		}
		auth, err := gitssh.NewPublicKeys(user, key, string(secret.Data["passphrase"]))
		if err != nil {
			return nil, fmt.Errorf("secret %s: %s is not a private key, or its passphrase is wrong", secret.Name, corev1.SSHAuthPrivateKey)
		}
		if auth.HostKeyCallback, err = hostKeys(secret.Data["known_hosts"]); err != nil {
			return nil, fmt.Errorf("secret %s: %w", secret.Name, err)
		}
		r.auth = auth
		return r, nil
	}
	if password := secret.Data[corev1.BasicAuthPasswordKey]; len(password) > 0 {
		user := string(secret.Data[corev1.BasicAuthUsernameKey])
		if user == "" {
			user = "git" // with a token any name will do
		}
		r.auth = &githttp.BasicAuth{Username: user, Password: string(password)}
		return r, nil
	}
	return nil, fmt.Errorf("secret %s has neither password nor %s", secret.Name, corev1.SSHAuthPrivateKey)
}

// hostKeys checks a server's key by what known_hosts says: an unknown server could be anybody.
func hostKeys(known []byte) (ssh.HostKeyCallback, error) {
	if len(known) == 0 {
		return nil, hint.Wrap(errors.New("known_hosts is missing: the server could be anybody"), "put the output of `ssh-keyscan HOST` into the Secret, after checking it")
	}
	f, err := os.CreateTemp("", "known-hosts-")
	if err != nil {
		return nil, err
	}
	defer os.Remove(f.Name())
	if _, err := f.Write(known); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	if err := f.Close(); err != nil {
		return nil, err
	}
	check, err := knownhosts.New(f.Name())
	if err != nil {
		return nil, fmt.Errorf("known_hosts: %w", err)
	}
	return check, nil
}

// head asks the repository for the newest commit of the branch.
func (r *repository) head(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(reach(ctx, r.local), askPatience)
	defer cancel()
	if err := r.checkReach(ctx); err != nil {
		return "", r.explain(err)
	}
	remote := git.NewRemote(memory.NewStorage(), &config.RemoteConfig{Name: "origin", URLs: []string{r.url}})
	refs, err := remote.ListContext(ctx, &git.ListOptions{Auth: r.auth})
	if err != nil {
		return "", r.explain(err)
	}
	for _, ref := range refs {
		if ref.Name() == plumbing.NewBranchReferenceName(r.branch) {
			return ref.Hash().String(), nil
		}
	}
	return "", fmt.Errorf("repository %s has no branch %s", r.url, r.branch)
}

// fetch gets one commit, by default the branch's newest, into the cache. A damaged
// cache is made anew.
func (r *repository) fetch(ctx context.Context, id string) (*object.Commit, error) {
	ctx, cancel := context.WithTimeout(reach(ctx, r.local), fetchPatience)
	defer cancel()
	if err := r.checkReach(ctx); err != nil {
		return nil, r.explain(err)
	}
	ctx, stop := limitSize(ctx, r.cache, maxFetchBytes)
	defer stop()
	commit, err := r.tryFetch(ctx, id)
	if err == nil || ctx.Err() != nil {
		return commit, errors.Join(err, context.Cause(ctx))
	}
	if rmErr := os.RemoveAll(r.cache); rmErr != nil {
		return nil, rmErr
	}
	if commit, err = r.tryFetch(ctx, id); ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	return commit, r.explain(err)
}

func (r *repository) tryFetch(ctx context.Context, id string) (*object.Commit, error) {
	repo, err := git.PlainOpen(r.cache)
	if errors.Is(err, git.ErrRepositoryNotExists) {
		repo, err = git.PlainInit(r.cache, true)
	}
	if err != nil {
		return nil, err
	}
	if commit, err := repo.CommitObject(plumbing.NewHash(id)); err == nil && id != "" {
		return commit, nil
	}
	remote := git.NewRemote(repo.Storer, &config.RemoteConfig{Name: "origin", URLs: []string{r.url}})
	branch := plumbing.NewBranchReferenceName(r.branch)
	get := func(source string, depth int) error {
		err := remote.FetchContext(ctx, &git.FetchOptions{
			RemoteURL: r.url, Auth: r.auth, Depth: depth, Tags: git.NoTags, Force: true,
			RefSpecs: []config.RefSpec{config.RefSpec("+" + source + ":" + branch.String())},
		})
		if errors.Is(err, git.NoErrAlreadyUpToDate) {
			return nil
		}
		return err
	}
	if id == "" {
		if err := get(branch.String(), 1); err != nil {
			return nil, err
		}
		ref, err := repo.Reference(branch, true)
		if err != nil {
			return nil, err
		}
		return repo.CommitObject(ref.Hash())
	}
	// Not every server gives a commit by its name; then it is looked for in the branch.
	if err := get(id, 1); err != nil {
		if err := get(branch.String(), 0); err != nil {
			return nil, err
		}
	}
	return repo.CommitObject(plumbing.NewHash(id))
}

// unavailable is a failure that may be over soon.
type unavailable struct{ error }

func (unavailable) Transient() bool { return true }
func (u unavailable) Unwrap() error { return u.error }

// explain says what a person can do about an error of Git.
func (r *repository) explain(err error) error {
	if err == nil {
		return nil
	}
	shown := r.url
	if u, parseErr := url.Parse(r.url); parseErr == nil {
		shown = u.Redacted()
	}
	wrapped := fmt.Errorf("repository %s: %w", shown, err)
	var network net.Error
	switch {
	case errors.Is(err, errLocal):
		return wrapped
	case errors.Is(err, transport.ErrAuthenticationRequired), errors.Is(err, transport.ErrAuthorizationFailed), errors.Is(err, transport.ErrRepositoryNotFound):
		return hint.Wrap(wrapped, "is the URL right, and may the credentials in spec.source.secretName read it?")
	case errors.Is(err, plumbing.ErrObjectNotFound):
		return hint.Wrap(fmt.Errorf("repository %s: branch %s does not have the commit", shown, r.branch), "was it removed by a forced push?")
	case errors.As(err, &network), errors.Is(err, context.DeadlineExceeded), errors.Is(err, io.ErrUnexpectedEOF):
		return unavailable{wrapped}
	}
	return wrapped
}

// limitSize cancels what fills a directory with more than max bytes.
func limitSize(ctx context.Context, dir string, max int64) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	go func() {
		ticker := time.NewTicker(500 * time.Millisecond)
		defer ticker.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-ticker.C:
				if size(dir) > max {
					cancel(fmt.Errorf("the repository is larger than %d MB", max>>20))
				}
			}
		}
	}()
	return ctx, func() { cancel(nil) }
}

func size(dir string) (total int64) {
	_ = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			if info, err := d.Info(); err == nil {
				total += info.Size()
			}
		}
		return nil // what vanished meanwhile has no size
	})
	return total
}

// checkout writes the files of a commit into dir, which is emptied first. Nothing
// is written outside of it, whatever the tree says, and submodules are left out. The
// time of a file follows from its content: what did not change from one commit to the
// next looks unchanged to who compares times, and gives the same image.
func checkout(commit *object.Commit, dir string, most bounds) error {
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("check out: %w", err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("check out: %w", err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return fmt.Errorf("check out: %w", err)
	}
	defer root.Close()
	tree, err := commit.Tree()
	if err != nil {
		return fmt.Errorf("check out %s: %w", commit.Hash, err)
	}
	var files int
	var bytes int64
	return tree.Files().ForEach(func(f *object.File) error {
		files++
		bytes += f.Size
		if files > most.files || bytes > most.bytes {
			return fmt.Errorf("check out: the repository has more than %d files or %d MB", most.files, most.bytes>>20)
		}
		if err := writeFile(root, f); err != nil {
			return fmt.Errorf("check out %q: %w", f.Name, err)
		}
		return nil
	})
}

func writeFile(root *os.Root, f *object.File) error {
	name := filepath.FromSlash(f.Name)
	if !filepath.IsLocal(name) {
		return errors.New("its name leads out of the repository")
	}
	for part := range strings.SplitSeq(f.Name, "/") {
		if strings.EqualFold(part, ".git") {
			return errors.New("a repository may not contain files of Git itself")
		}
	}
	if parent := filepath.Dir(name); parent != "." {
		if err := root.MkdirAll(parent, 0o755); err != nil {
			return err
		}
	}
	if f.Mode == filemode.Symlink {
		target, err := f.Contents()
		if err != nil {
			return err
		}
		return root.Symlink(target, name)
	}
	mode := fs.FileMode(0o644)
	if f.Mode == filemode.Executable {
		mode = 0o755
	}
	to, err := root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, mode)
	if err != nil {
		return err
	}
	from, err := f.Reader()
	if err != nil {
		return errors.Join(err, to.Close())
	}
	_, err = io.Copy(to, from)
	if err := errors.Join(err, from.Close(), to.Chmod(mode), to.Close()); err != nil {
		return err
	}
	at := contentTime(f.Hash)
	return root.Chtimes(name, at, at)
}

// contentTime is a moment in the first years of the century.
func contentTime(hash plumbing.Hash) time.Time {
	const years = 20 * 365 * 24 * 3600
	return time.Date(2001, 1, 1, 0, 0, 0, 0, time.UTC).Add(time.Duration(binary.BigEndian.Uint32(hash[:4])%years) * time.Second)
}

// describe is what a Build says of a commit.
func describe(c *object.Commit) *v1alpha1.BuildCommit {
	message, _, _ := strings.Cut(strings.TrimSpace(c.Message), "\n")
	at := metav1.NewTime(c.Author.When)
	return &v1alpha1.BuildCommit{
		ID: c.Hash.String(), Short: c.Hash.String()[:8], Author: clip(c.Author.Name+" <"+c.Author.Email+">", 256), Message: clip(message, 512), Time: &at,
	}
}

// clip shortens a text to at most n bytes.
func clip(s string, n int) string {
	s = strings.ToValidUTF8(s, "?")
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n-3], "") + "..."
}
