package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/spf13/cobra"
	"golang.org/x/term"
	"k8s.io/client-go/kubernetes"

	"github.com/gantryhq/gantry/engine/image"
	"github.com/gantryhq/gantry/internal/attest"
	"github.com/gantryhq/gantry/internal/hint"
	"github.com/gantryhq/gantry/internal/progress"
	"github.com/gantryhq/gantry/services/scan"
	"github.com/gantryhq/gantry/services/scan/inspect"
	"github.com/gantryhq/gantry/services/scan/osvdb"
	"github.com/gantryhq/gantry/services/scan/report"
)

// scanFlags are those of `gantry scan`.
type scanFlags struct {
	dockerfile, database, output, platform string
	failOn, show                           string
	fresh                                  bool
	maxUnpackedGB                          int64
}

func newScanCommand(g *globals) *cobra.Command {
	var f scanFlags
	c := &cobra.Command{
		Use:   "scan IMAGE",
		Short: "Find known vulnerabilities, secrets and faults in an image",
		Long: "Reads an image's layers and looks its packages up in the vulnerability database of the\n" +
			"built-in registry, without any other network. IMAGE is the name of an image in a registry,\n" +
			"an archive of `docker save`, or an OCI layout (directory or tar file). An image that was\n" +
			"scanned with the same database is not scanned again.",
		Example: "  gantry scan shop/cart --fail-on high\n" +
			"  gantry scan ./cart.tar -o sarif > cart.sarif\n" +
			"  gantry scan --dockerfile services/cart/Dockerfile",
		Args: cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			ctx, stop := signal.NotifyContext(c.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			return runScan(ctx, g, f, args, c.OutOrStdout())
		},
	}
	fl := c.Flags()
	fl.StringVar(&f.dockerfile, "dockerfile", "", "check this Dockerfile instead of an image")
	fl.StringVar(&f.database, "db", "", "vulnerability database: a name in a registry or a file (default "+osvdb.Repository+" in the built-in registry)")
	fl.StringVarP(&f.output, "output", "o", "", "json, sarif, spdx or cyclonedx instead of a table")
	fl.StringVar(&f.platform, "platform", "linux/"+runtime.GOARCH, "of an image for several platforms, the one for this")
	fl.StringVar(&f.failOn, "fail-on", "", "exit with status 1 when something is this severe or worse: critical, high, medium, low, negligible")
	fl.StringVar(&f.show, "severity", "", "show only what is this severe or worse (table only)")
	fl.BoolVar(&f.fresh, "fresh", false, "scan even when there is a result for this image and database")
	fl.Int64Var(&f.maxUnpackedGB, "max-unpacked-gb", 0, "refuse an image that unpacks to more (default 32)")
	c.AddCommand(newScanDBCommand(g))
	return c
}

func runScan(ctx context.Context, g *globals, f scanFlags, args []string, out io.Writer) error {
	failOn, show, err := f.check(args)
	if err != nil {
		return err
	}
	var r *report.Report
	if f.dockerfile != "" {
		r, err = scan.Dockerfile(ctx, f.dockerfile)
	} else {
		r, err = scanImage(ctx, g, f, args[0])
	}
	if err != nil {
		return err
	}
	if err := writeReport(r, f.output, show, out); err != nil {
		return err
	}
	if f.failOn == "" {
		return nil
	}
	if r.Database == nil && f.dockerfile == "" {
		return hint.Wrap(errors.New("whether the image has vulnerabilities is not known: there is no vulnerability database"), "make one with `gantry scan db import`")
	}
	if worst, any := r.Worst(); any && worst >= failOn {
		return fmt.Errorf("%s has findings of severity %s (--fail-on %s)", r.Target, worst, failOn)
	}
	return nil
}

// check refuses what cannot be meant, before anything is done.
func (f scanFlags) check(args []string) (failOn, show osvdb.Severity, err error) {
	if (len(args) == 1) == (f.dockerfile != "") {
		return 0, 0, usageError{hint.Wrap(errors.New("gantry scan: want either the name of one image or --dockerfile"), "see `gantry scan --help`")}
	}
	switch f.output {
	case "", "table", "json", "sarif", "spdx", "cyclonedx":
	default:
		return 0, 0, usageError{fmt.Errorf("--output %q is none of json, sarif, spdx, cyclonedx", f.output)}
	}
	if f.failOn != "" {
		if failOn, err = osvdb.ParseSeverity(f.failOn); err != nil {
			return 0, 0, usageError{fmt.Errorf("--fail-on: %w", err)}
		}
	}
	if f.show != "" {
		if show, err = osvdb.ParseSeverity(f.show); err != nil {
			return 0, 0, usageError{fmt.Errorf("--severity: %w", err)}
		}
	}
	return failOn, show, nil
}

func writeReport(r *report.Report, format string, show osvdb.Severity, out io.Writer) error {
	switch format {
	case "json":
		return r.WriteJSON(out)
	case "sarif":
		return r.WriteSARIF(out)
	case "spdx":
		return r.WriteSPDX(out)
	case "cyclonedx":
		return r.WriteCycloneDX(out)
	}
	f, isFile := out.(*os.File)
	return r.WriteTable(out, report.TableOptions{AtLeast: show, Color: isFile && term.IsTerminal(int(f.Fd())) && os.Getenv("NO_COLOR") == ""})
}

// scanImage reads a result that is there, else scans and keeps the result.
func scanImage(ctx context.Context, g *globals, f scanFlags, target string) (*report.Report, error) {
	platform, err := v1.ParsePlatform(f.platform)
	if err != nil {
		return nil, usageError{fmt.Errorf("--platform: %w", err)}
	}
	in := findInstance(ctx, g)
	display := progress.New(os.Stderr)
	defer display.Close()
	task := display.Task(target)
	r, err := func() (*report.Report, error) {
		if isPath(target) {
			img, done, err := scan.Open(target, *platform)
			if err != nil {
				return nil, err
			}
			defer done.Close()
			return scanWith(ctx, in, f, target, img, task)
		}
		return scanReference(ctx, g, in, f, target, *platform, task)
	}()
	if err != nil {
		task.Fail("not scanned")
		return nil, err
	}
	task.Done("%s", r.Line())
	return r, nil
}

// isPath tells a file from the name of an image: it exists, or looks like a path.
func isPath(target string) bool {
	if strings.HasPrefix(target, "./") || strings.HasPrefix(target, "../") || filepath.IsAbs(target) {
		return true
	}
	info, err := os.Stat(target)
	if err != nil {
		return false
	}
	if !info.IsDir() {
		return true
	}
	_, err = os.Stat(filepath.Join(target, "index.json"))
	return err == nil
}

func scanReference(ctx context.Context, g *globals, in instance, f scanFlags, target string, platform v1.Platform, task *progress.Task) (*report.Report, error) {
	full := target
	if !strings.Contains(target, "@") {
		var err error
		if full, err = in.fullName(target); err != nil {
			return nil, err
		}
	} else if !hasRegistry(target) {
		full = in.registry + "/" + target
	}
	ref, err := name.ParseReference(full)
	if err != nil {
		return nil, usageError{err}
	}
	img, err := scan.Pull(ctx, ref, platform, remoteOptions(ctx)...)
	if err != nil {
		if r, local, err := scanLocal(ctx, in, f, target, full, platform, task); local {
			return r, err
		}
		return nil, hint.Wrap(fmt.Errorf("read image %s: %w", full, withoutURLs(err)), "`gantry images` lists what there is; a file is given as ./FILE")
	}
	digest, err := img.Digest()
	if err != nil {
		return nil, fmt.Errorf("read image %s: %w", full, err)
	}
	about := ref.Context().Digest(digest.String())
	results := instanceResults(ctx, g, in, about)
	if results != nil && !f.fresh {
		if r := storedReport(ctx, in, f, results, about); r != nil {
			r.Target = full
			return r, nil
		}
	}
	r, err := scanWith(ctx, in, f, full, img, task)
	if err != nil || results == nil || r.Database == nil || f.database != "" {
		return r, err
	}
	task.Update("attaching the result")
	if err := results.Put(ctx, about, r); err != nil {
		return nil, hint.Wrap(err, "the image was scanned, but the result could not be attached to it")
	}
	return r, nil
}

// scanLocal scans an image that only this machine has, such as one of `docker build`.
// local is false when it has none of that name.
func scanLocal(ctx context.Context, in instance, f scanFlags, target, full string, platform v1.Platform, task *progress.Task) (r *report.Report, local bool, err error) {
	machine := image.NewClient(in.dataDir)
	there, err := machine.List(ctx)
	if err != nil {
		return nil, false, err
	}
	i := slices.IndexFunc(there, func(s image.Summary) bool { return s.Name == full || image.FamiliarName(s.Name) == withTag(target) })
	if i < 0 {
		return nil, false, nil
	}
	file, err := os.CreateTemp("", "gantry-scan-*.tar")
	if err != nil {
		return nil, true, err
	}
	defer os.Remove(file.Name())
	task.Update("reading it from this machine")
	if err := errors.Join(machine.Export(ctx, file, there[i].Name), file.Close()); err != nil {
		return nil, true, err
	}
	img, done, err := scan.Open(file.Name(), platform)
	if err != nil {
		return nil, true, err
	}
	defer done.Close()
	r, err = scanWith(ctx, in, f, there[i].Name, img, task)
	return r, true, err
}

// withTag is a name with the tag that it means.
func withTag(name string) string {
	if _, after, _ := strings.Cut(name, "/"); strings.Contains(after, ":") || !strings.Contains(name, "/") && strings.Contains(name, ":") {
		return name
	}
	return name + ":latest"
}

// instanceResults keeps results of images in the built-in registry, signed with the
// installation's key. Without a running Gantry there is no key, so none are kept.
func instanceResults(ctx context.Context, g *globals, in instance, about name.Digest) *scan.Results {
	if !in.builtIn(about.Name()) {
		return nil
	}
	cfg, err := g.config()
	if err != nil {
		return nil
	}
	kube, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return nil
	}
	signer, err := attest.InstanceSigner(ctx, kube)
	if err != nil {
		return nil
	}
	return &scan.Results{Signer: signer, Keys: []*attest.PublicKey{signer.Public}, Version: version, Options: remoteOptions(ctx)}
}

// storedReport is the kept result when it is from the database of today.
func storedReport(ctx context.Context, in instance, f scanFlags, results *scan.Results, about name.Digest) *report.Report {
	if f.database != "" {
		return nil
	}
	status, err := osvdb.Look(ctx, osvdb.Reference(in.registry), remoteOptions(ctx)...)
	if err != nil {
		return nil
	}
	r, err := results.Get(ctx, about)
	if err != nil || r == nil || r.Database.Digest != status.Digest {
		return nil
	}
	return r
}

// scanWith scans with the database that is meant, or without when there is none.
func scanWith(ctx context.Context, in instance, f scanFlags, target string, img v1.Image, task *progress.Task) (*report.Report, error) {
	s := &scan.Scanner{Options: inspect.Options{
		MaxUnpackedBytes: f.maxUnpackedGB << 30,
		Layer:            func(n, of int) { task.Count(int64(n), int64(of)); task.Update("layer %d of %d", n, of) },
	}}
	task.Update("opening the vulnerability database")
	file, status, remove, err := findDatabase(ctx, in, f.database)
	defer remove()
	switch {
	case errors.Is(err, osvdb.ErrNone) && f.database == "":
	case err != nil && f.database == "" && isPath(target):
		// A file can be looked at without a registry, though not for vulnerabilities.
	case err != nil:
		return nil, err
	default:
		if s.Database, err = osvdb.Open(file); err != nil {
			return nil, err
		}
		defer s.Database.Close()
		if s.Status = status; status == nil {
			s.Status = &osvdb.Status{Name: file, About: s.Database.About(), Newest: s.Database.About().Newest}
		}
	}
	return s.Image(ctx, target, img)
}

// findDatabase returns a database's file: the one that is given, or the one of a
// registry, which is kept under the data directory where that can be written.
func findDatabase(ctx context.Context, in instance, given string) (file string, status *osvdb.Status, remove func(), err error) {
	remove = func() {}
	if given != "" && isPath(given) {
		return given, nil, remove, nil
	}
	ref := osvdb.Reference(in.registry)
	if given != "" {
		if ref, err = in.fullName(given); err != nil {
			return "", nil, remove, err
		}
	}
	dir := filepath.Join(in.dataDir, "scan", "db")
	if os.MkdirAll(dir, 0o700) != nil || given != "" {
		if dir, err = os.MkdirTemp("", "gantry-scan-"); err != nil {
			return "", nil, remove, err
		}
		remove = func() { _ = os.RemoveAll(dir) } // only disk space
	}
	file, status, err = osvdb.Fetch(ctx, ref, dir, remoteOptions(ctx)...)
	if err != nil {
		err = withoutURLs(err)
	}
	return file, status, remove, err
}
