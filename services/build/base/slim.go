package base

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/gantryhq/gantry/internal/hint"
)

// SlimOptions say how to make an image of named packages only.
type SlimOptions struct {
	Tag          string   // where to push it: "127.0.0.1:5000/base/static:12"
	Name         string   // what it is called: "static"
	Suite        string   // "bookworm"; "" means the host's, or bookworm
	Packages     []string // what is in it; nothing else is, unless Dependencies
	Dependencies bool     // also what the packages depend on
	Root         bool     // its programs run as root, not as user 65532
	Mirror       string   // "" means the mirror this host's apt uses
	WorkDir      string   // for temporary files; "" means the system's
	Refresh      bool     // make it even if it is there
	Progress     Progress
	Count        func(n, of int) // told of each package; may be nil
}

// Kinds are the packages of the images that have a name. In those of newer suites
// some packages are called otherwise.
func Kinds(suite string) map[string][]string {
	ssl := "libssl3"
	if suite != "bullseye" && suite != "bookworm" {
		ssl = "libssl3t64"
	}
	if suite == "bullseye" {
		ssl = "libssl1.1"
	}
	static := []string{"base-files", "ca-certificates", "netbase", "tzdata"}
	base := append(slices.Clone(static), "libc6", ssl)
	return map[string][]string{
		"static": static,                                                            // for programs without libraries, such as Go's
		"base":   base,                                                              // for programs that need the C library and TLS
		"cc":     append(slices.Clone(base), "libgcc-s1", "libgomp1", "libstdc++6"), // and C++, Rust, D
	}
}

const (
	nonroot    = 65532
	home       = "home/nonroot" // of that user
	slimPath   = "/usr/local/bin:/usr/bin:/bin"
	slimPasswd = "root:x:0:0:root:/root:/sbin/nologin\nnobody:x:65534:65534:nobody:/nonexistent:/sbin/nologin\nnonroot:x:65532:65532:nonroot:/" + home + ":/sbin/nologin\n"
	slimGroup  = "root:x:0:\nnobody:x:65534:\ntty:x:5:\nstaff:x:50:\nnonroot:x:65532:\n"
	slimHosts  = "hosts: files dns\n"
	caBundle   = "etc/ssl/certs/ca-certificates.crt"
)

// Slim makes an image of nothing but the named packages' files: no shell and no package
// manager unless one is named, no script of a package is run. Each package is
// recorded in var/lib/dpkg/status.d, where scanners look.
func Slim(ctx context.Context, opt SlimOptions) (*Result, error) {
	ref, err := parseTag(opt.Tag)
	if err != nil {
		return nil, err
	}
	if opt.Suite == "" {
		opt.Suite = HostSuite()
	}
	if len(opt.Packages) == 0 {
		return nil, errors.New("an image of no packages would be empty")
	}
	for _, word := range append([]string{opt.Suite}, opt.Packages...) {
		if !validPackage.MatchString(word) {
			return nil, fmt.Errorf("%q is not the name of a Debian suite or package", word)
		}
	}
	slices.Sort(opt.Packages)
	opt.Packages = slices.Compact(opt.Packages)
	sources, err := hostSources("/etc/apt", opt.Suite)
	if err != nil {
		return nil, err
	}
	if opt.Mirror != "" {
		sources[0].uri = strings.TrimSuffix(opt.Mirror, "/")
	}
	inputs := inputsDigest("slim", opt.Name, opt.Suite, strings.Join(opt.Packages, ","), fmt.Sprint(opt.Dependencies, opt.Root), deb822(sources))
	if !opt.Refresh {
		if r, err := existing(ctx, ref, inputs); r != nil || err != nil {
			return r, err
		}
	}
	if os.Geteuid() != 0 {
		return nil, hint.Wrap(errors.New("the files of packages belong to several users, which only root can give them to"), "run the command with sudo")
	}
	dir, remove, err := workDir(opt.WorkDir)
	if err != nil {
		return nil, err
	}
	defer remove()
	img, err := (&slim{SlimOptions: opt, dir: dir, root: filepath.Join(dir, "root")}).make(ctx, sources)
	if err != nil {
		return nil, fmt.Errorf("make image %s of Debian %s: %w", opt.Name, opt.Suite, err)
	}
	opt.Progress.say("pushing %s", ref)
	img.ref, img.inputs = ref, inputs
	return img.push(ctx)
}

// slim makes one image.
type slim struct {
	SlimOptions
	dir, root string
}

func (s *slim) make(ctx context.Context, sources []aptSource) (*image, error) {
	s.Progress.say("reading the indexes of Debian %s", s.Suite)
	a, err := newApt(ctx, filepath.Join(s.dir, "apt"), sources)
	if err != nil {
		return nil, err
	}
	newest, err := a.released()
	if err != nil {
		return nil, err
	}
	packages, err := a.candidates(ctx, s.Packages, s.Dependencies)
	if err != nil {
		return nil, err
	}
	total := 2 * len(packages)
	s.Progress.say("fetching %d packages", len(packages))
	files, err := a.download(ctx, packages, func(n int) { s.count(n, total) })
	if err != nil {
		return nil, err
	}
	if err := s.skeleton(); err != nil {
		return nil, err
	}
	for i, file := range files {
		s.Progress.say("unpacking %s", packages[i])
		if err := s.unpack(ctx, file); err != nil {
			return nil, fmt.Errorf("unpack %s: %w", packages[i], err)
		}
		s.count(len(packages)+i+1, total)
	}
	if err := s.certificates(); err != nil {
		return nil, err
	}
	layer := filepath.Join(s.dir, "layer.tar.gz")
	l, err := newLayerWriter(layer, newest)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(l.tree(s.root, slimLeftOut), l.close()); err != nil {
		return nil, err
	}
	img := &image{
		layer: layer, created: newest, title: s.Name, version: SuiteVersion(s.Suite), source: sources[0].uri + " " + s.Suite, packages: packages,
		env:    []string{"PATH=" + slimPath, "SSL_CERT_FILE=/" + caBundle},
		recipe: &Recipe{Kind: "slim", Name: s.Name, Suite: s.Suite, Packages: s.SlimOptions.Packages, Dependencies: s.Dependencies, Root: s.Root},
	}
	if !s.Root {
		img.user, img.workDir = fmt.Sprint(nonroot), "/"+home
	}
	return img, nil
}

// slimLeftOut also leaves out the places for manuals: nothing will be installed.
func slimLeftOut(rel string) bool { return leftOut(rel) || under(rel, "usr/share/man") }

func (s *slim) count(n, of int) {
	if s.Count != nil {
		s.Count(n, of)
	}
}

// skeleton makes what every program expects, and the directories that Debian merged
// into usr, so that packages of any age find them.
func (s *slim) skeleton() error {
	for dir, mode := range map[string]os.FileMode{
		"usr/bin": 0o755, "usr/sbin": 0o755, "usr/lib": 0o755, "usr/lib64": 0o755, "etc": 0o755, "root": 0o700, home: 0o700,
		"tmp": 0o777 | os.ModeSticky, "var/tmp": 0o777 | os.ModeSticky, "var/lib/dpkg/status.d": 0o755, "dev": 0o755, "proc": 0o555, "sys": 0o555, "run": 0o755,
	} {
		path := filepath.Join(s.root, dir)
		if err := errors.Join(os.MkdirAll(path, 0o755), os.Chmod(path, mode)); err != nil {
			return err
		}
	}
	for _, name := range []string{"bin", "sbin", "lib", "lib64"} {
		if err := os.Symlink("usr/"+name, filepath.Join(s.root, name)); err != nil {
			return err
		}
	}
	for name, body := range map[string]string{"etc/passwd": slimPasswd, "etc/group": slimGroup, "etc/nsswitch.conf": slimHosts} {
		if err := os.WriteFile(filepath.Join(s.root, name), []byte(body), 0o644); err != nil {
			return err
		}
	}
	return os.Chown(filepath.Join(s.root, home), nonroot, nonroot)
}

// unpack puts a package's files into the root and records it.
func (s *slim) unpack(ctx context.Context, deb string) error {
	data := exec.CommandContext(ctx, "dpkg-deb", "--fsys-tarfile", deb)
	// Links of directories stay: the root's lib leads to usr/lib.
	tar := exec.CommandContext(ctx, "tar", "--extract", "--keep-directory-symlink", "--preserve-permissions", "--same-owner", "--numeric-owner", "--directory", s.root)
	pipe, err := data.StdoutPipe()
	if err != nil {
		return err
	}
	tar.Stdin = pipe
	var said bytes.Buffer
	data.Stderr, tar.Stderr = &said, &said
	if err := data.Start(); err != nil {
		return err
	}
	if err := errors.Join(tar.Run(), data.Wait()); err != nil {
		return fmt.Errorf("%w\n%s", err, lastLines(said.String()))
	}
	return s.record(ctx, deb)
}

// record writes a package's control data where distroless images have them.
func (s *slim) record(ctx context.Context, deb string) error {
	control, err := exec.CommandContext(ctx, "dpkg-deb", "--field", deb).Output()
	if err != nil {
		return fmt.Errorf("read control data: %w", err)
	}
	name, ok := strings.CutPrefix(strings.SplitN(string(control), "\n", 2)[0], "Package: ")
	if !ok || !validPackage.MatchString(name) {
		return errors.New("its control data do not begin with a name")
	}
	path := filepath.Join(s.root, "var/lib/dpkg/status.d", name)
	if err := os.WriteFile(path, control, 0o644); err != nil {
		return err
	}
	sums, err := exec.CommandContext(ctx, "dpkg-deb", "--info", deb, "md5sums").Output()
	if err != nil || len(sums) == 0 {
		return nil // a package without files has none
	}
	return os.WriteFile(path+".md5sums", sums, 0o644)
}

// certificates joins the authorities that ca-certificates brings, as its script would.
func (s *slim) certificates() error {
	files, err := filepath.Glob(filepath.Join(s.root, "usr/share/ca-certificates/mozilla/*.crt")) // sorted
	if err != nil || len(files) == 0 {
		return err
	}
	var bundle bytes.Buffer
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			return err
		}
		bundle.Write(bytes.TrimSpace(text))
		bundle.WriteByte('\n')
	}
	path := filepath.Join(s.root, caBundle)
	return errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, bundle.Bytes(), 0o644))
}
