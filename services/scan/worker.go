package scan

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"syscall"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"golang.org/x/sys/unix"

	"github.com/gantryhq/gantry/services/scan/inspect"
	"github.com/gantryhq/gantry/services/scan/osvdb"
	"github.com/gantryhq/gantry/services/scan/report"
)

// WorkerConfig says where a worker works.
type WorkerConfig struct {
	Dir      string // the service's
	Database string // name of the database by digest
}

const (
	workerDir    = "work" // the worker's own: the socket, and temporary files
	workerSocket = "registry.sock"
	databaseDir  = "db"

	nobody = 65534

	softMemory = 384 << 20 // the garbage collector works harder above
	hardMemory = 2 << 30   // the worker dies above
	openFiles  = 256
)

// Worker scans the images that it reads from in, one JSON line each, writes the
// reports to out and returns when in ends. Call it from a process of its own, started
// in a network namespace of its own: it gives up all its rights before it looks at
// the first image, so that a detector that an image takes over can do nothing but
// read the registry and lie about this image.
func Worker(ctx context.Context, cfg WorkerConfig, in io.Reader, out io.Writer) error {
	dir, err := unix.Open(filepath.Join(cfg.Dir, workerDir), unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return fmt.Errorf("open scan directory %s: %w", cfg.Dir, err)
	}
	// Through its descriptor the directory is reached without the right to pass those above it.
	own := fmt.Sprintf("/proc/self/fd/%d", dir)
	options := []remote.Option{remote.WithTransport(overSocket(filepath.Join(own, workerSocket)))}
	file, status, err := osvdb.Fetch(ctx, cfg.Database, filepath.Join(cfg.Dir, databaseDir), options...)
	if err != nil {
		return err
	}
	db, err := osvdb.Open(file)
	if err != nil {
		return err
	}
	defer db.Close()
	if err := errors.Join(os.Setenv("TMPDIR", own), confine()); err != nil {
		return fmt.Errorf("give up rights: %w", err)
	}
	s := &Scanner{Database: db, Status: status, Options: inspect.Options{TempDir: own}}
	answers := json.NewEncoder(out)
	if err := answers.Encode(answer{Ready: true}); err != nil {
		return fmt.Errorf("say that it is ready: %w", err)
	}
	lines := bufio.NewScanner(in)
	for lines.Scan() {
		var j job
		if err := json.Unmarshal(lines.Bytes(), &j); err != nil {
			return fmt.Errorf("read job: %w", err)
		}
		var a answer
		if a.Report, err = s.byName(ctx, j.Image, options); err != nil {
			a.Error, a.Again = err.Error(), ours(err)
		}
		if err := answers.Encode(a); err != nil {
			return fmt.Errorf("write report: %w", err)
		}
		debug.FreeOSMemory()
	}
	return lines.Err()
}

// ours is whether an error is of this machine or of the way to the registry, so that
// the same image may be scanned well later.
func ours(err error) bool {
	for _, e := range []error{unix.ENOSPC, unix.EDQUOT, unix.EACCES, unix.EMFILE, unix.ENOMEM, unix.EIO} {
		if errors.Is(err, e) {
			return true
		}
	}
	return errors.As(err, new(net.Error))
}

func (s *Scanner) byName(ctx context.Context, image string, options []remote.Option) (*report.Report, error) {
	ref, err := name.NewDigest(image)
	if err != nil {
		return nil, err
	}
	img, err := Pull(ctx, ref, v1.Platform{OS: "linux", Architecture: runtime.GOARCH}, options...)
	if err != nil {
		return nil, err
	}
	return s.Image(ctx, image, img)
}

// overSocket sends all requests to a socket, whatever host they name.
func overSocket(path string) http.RoundTripper {
	return &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", path)
	}}
}

// confine gives up, for good, what a scan does not need: root, new rights, memory
// and files without limit.
func confine() error {
	debug.SetMemoryLimit(softMemory)
	limit := func(what int, most uint64) error {
		return unix.Setrlimit(what, &unix.Rlimit{Cur: most, Max: most})
	}
	err := errors.Join(limit(unix.RLIMIT_DATA, hardMemory), limit(unix.RLIMIT_NOFILE, openFiles), limit(unix.RLIMIT_CORE, 0))
	if os.Geteuid() == 0 {
		err = errors.Join(err, syscall.Setgroups(nil), syscall.Setresgid(nobody, nobody, nobody), syscall.Setresuid(nobody, nobody, nobody))
	}
	if _, _, errno := syscall.AllThreadsSyscall(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0); errno != 0 {
		err = errors.Join(err, errno)
	}
	return err
}
