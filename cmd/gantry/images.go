package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"text/tabwriter"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/spf13/cobra"

	"github.com/gantryhq/gantry/engine/image"
	"github.com/gantryhq/gantry/internal/attest"
	"github.com/gantryhq/gantry/internal/hint"
	"github.com/gantryhq/gantry/internal/progress"
)

// imageRow is one image of `gantry images`.
type imageRow struct {
	Name      string   `json:"name"`
	Digest    string   `json:"digest"`
	SizeBytes int64    `json:"sizeBytes"`
	Where     []string `json:"where"` // "registry", "machine"
}

func newImagesCommand(g *globals) *cobra.Command {
	var output *string
	c := &cobra.Command{
		Use:   "images",
		Short: "List the images in the built-in registry and on this machine",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			rows, err := listImages(c.Context(), findInstance(c.Context(), g))
			if err != nil {
				return err
			}
			if *output == "json" {
				return writeJSON(c.OutOrStdout(), rows)
			}
			return printImages(c.OutOrStdout(), rows)
		},
	}
	output = outputFlag(c)
	return c
}

func printImages(out io.Writer, rows []*imageRow) error {
	w := tabwriter.NewWriter(out, 0, 4, 3, ' ', 0)
	fmt.Fprintln(w, "NAME\tDIGEST\tSIZE\tWHERE")
	for _, r := range rows {
		fmt.Fprintf(w, "%s\t%.19s\t%s\t%s\n", image.FamiliarName(r.Name), r.Digest, size(r.SizeBytes), strings.Join(r.Where, ", "))
	}
	return w.Flush()
}

// listImages merges what the registry and the machine hold. Either may be
// missing; only when both are is that an error.
func listImages(ctx context.Context, in instance) ([]*imageRow, error) {
	rows := map[string]*imageRow{}
	add := func(name, digest string, bytes int64, where string) {
		key := name + "@" + digest
		if rows[key] == nil {
			rows[key] = &imageRow{Name: name, Digest: digest, SizeBytes: bytes}
		}
		rows[key].Where = append(rows[key].Where, where)
	}
	registryErr := registryImages(ctx, in.registry, add)
	onMachine, machineErr := image.NewClient(in.dataDir).List(ctx)
	for _, s := range onMachine {
		add(s.Name, s.Digest, s.SizeBytes, "machine")
	}
	if registryErr != nil && machineErr != nil {
		return nil, registryErr
	}
	out := make([]*imageRow, 0, len(rows))
	for _, r := range rows {
		out = append(out, r)
	}
	slices.SortFunc(out, func(a, b *imageRow) int { return strings.Compare(a.Name+a.Digest, b.Name+b.Digest) })
	return out, nil
}

// registryImages reports every tag in a registry.
func registryImages(ctx context.Context, host string, add func(name, digest string, bytes int64, where string)) error {
	registry, err := name.NewRegistry(host)
	if err != nil {
		return fmt.Errorf("registry %s: %w", host, err)
	}
	repositories, err := remote.Catalog(ctx, registry, remoteOptions(ctx)...)
	if err != nil {
		return hint.Wrap(fmt.Errorf("list images in registry %s: %w", host, withoutURLs(err)), "is `gantry serve` running?")
	}
	for _, r := range repositories {
		repository := registry.Repo(r)
		tags, err := remote.List(repository, remoteOptions(ctx)...)
		if err != nil {
			continue // its last tag was deleted
		}
		for _, t := range tags {
			if attest.IsClaimTag(t) {
				continue // what is said about an image is no image
			}
			ref := repository.Tag(t)
			desc, err := remote.Get(ref, remoteOptions(ctx)...)
			if err != nil {
				continue // deleted in between
			}
			add(ref.Name(), desc.Digest.String(), transferSize(desc), "registry")
		}
	}
	return nil
}

// withoutURLs reduces a refused connection to what a user needs to know.
func withoutURLs(err error) error {
	var refused *net.OpError
	if errors.As(err, &refused) {
		return refused
	}
	return err
}

// transferSize is what pulling an image for this machine transfers.
func transferSize(desc *remote.Descriptor) int64 {
	img, err := desc.Image()
	if err != nil {
		return desc.Size
	}
	manifest, err := img.Manifest()
	if err != nil {
		return desc.Size
	}
	total := manifest.Config.Size
	for _, l := range manifest.Layers {
		total += l.Size
	}
	return total
}

func remoteOptions(ctx context.Context) []remote.Option {
	return []remote.Option{remote.WithContext(ctx), remote.WithAuthFromKeychain(authn.DefaultKeychain)}
}

func newPullCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:   "pull NAME",
		Short: "Pull an image to this machine",
		Args:  oneImage,
		RunE: func(c *cobra.Command, args []string) error {
			ctx, stop := signal.NotifyContext(c.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			in := findInstance(ctx, g)
			full, err := in.pullName(ctx, args[0])
			if err != nil {
				return err
			}
			user, password, err := credentials(full)
			if err != nil {
				return err
			}
			got, err := transfer(full, func(report func(image.Progress)) (*image.Summary, error) {
				return image.NewClient(in.dataDir).Pull(ctx, full, user, password, report)
			})
			if err != nil {
				return err
			}
			fmt.Fprintf(c.OutOrStdout(), "%s@%s\n", got.Name, got.Digest)
			return nil
		},
	}
}

// pullName is the name to pull: without a registry the built-in one is meant,
// and docker.io when that does not have it.
func (in instance) pullName(ctx context.Context, arg string) (string, error) {
	full, err := in.fullName(arg)
	if err != nil || hasRegistry(arg) {
		return full, err
	}
	if there, err := inRegistry(ctx, full); err == nil && !there {
		return image.FamiliarName(arg), nil
	}
	return full, nil
}

func inRegistry(ctx context.Context, full string) (bool, error) {
	ref, err := name.ParseReference(full)
	if err != nil {
		return false, err
	}
	_, err = remote.Head(ref, remoteOptions(ctx)...)
	var answer *transport.Error
	if errors.As(err, &answer) && answer.StatusCode == http.StatusNotFound {
		return false, nil
	}
	return err == nil, err
}

func newPushCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:   "push NAME [TARGET]",
		Short: "Push an image to a registry",
		Long: "Pushes an image of this machine or of the built-in registry. TARGET is the name it\n" +
			"gets; without one NAME says the registry.",
		Example: "  gantry push shop/cart ghcr.io/acme/cart:1.2",
		Args:    cobra.RangeArgs(1, 2),
		RunE: func(c *cobra.Command, args []string) error {
			ctx, stop := signal.NotifyContext(c.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			in := findInstance(ctx, g)
			source, err := in.fullName(args[0])
			if err != nil {
				return err
			}
			target := source
			if len(args) == 2 {
				if target, err = in.fullName(args[1]); err != nil {
					return err
				}
			}
			digest, err := in.push(ctx, source, target)
			if err != nil {
				return err
			}
			fmt.Fprintf(c.OutOrStdout(), "%s@%s\n", target, digest)
			return nil
		},
	}
}

// push sends an image of the built-in registry, else of this machine.
func (in instance) push(ctx context.Context, source, target string) (digest string, err error) {
	if in.builtIn(source) {
		there, err := inRegistry(ctx, source)
		if err != nil {
			return "", hint.Wrap(fmt.Errorf("look for %s: %w", source, withoutURLs(err)), "is `gantry serve` running?")
		}
		if there {
			return copyImage(ctx, source, target)
		}
	}
	user, password, err := credentials(target)
	if err != nil {
		return "", err
	}
	got, err := transfer(target, func(report func(image.Progress)) (*image.Summary, error) {
		return image.NewClient(in.dataDir).Push(ctx, source, target, user, password, report)
	})
	if err != nil {
		return "", err
	}
	return got.Digest, nil
}

// copyImage copies between registries, every platform of an image.
func copyImage(ctx context.Context, source, target string) (digest string, err error) {
	from, err := name.ParseReference(source)
	if err != nil {
		return "", usageError{err}
	}
	to, err := name.ParseReference(target)
	if err != nil {
		return "", usageError{err}
	}
	desc, err := remote.Get(from, remoteOptions(ctx)...)
	if err != nil {
		return "", fmt.Errorf("read %s: %w", source, err)
	}
	if source == target {
		return desc.Digest.String(), nil // it is where it belongs
	}
	if desc.MediaType.IsIndex() {
		idx, err := desc.ImageIndex()
		if err != nil {
			return "", fmt.Errorf("read %s: %w", source, err)
		}
		err = remote.WriteIndex(to, idx, remoteOptions(ctx)...)
		return desc.Digest.String(), wrapPush(target, err)
	}
	img, err := desc.Image()
	if err != nil {
		return "", fmt.Errorf("read %s: %w", source, err)
	}
	return desc.Digest.String(), wrapPush(target, remote.Write(to, img, remoteOptions(ctx)...))
}

func wrapPush(target string, err error) error {
	if err == nil {
		return nil
	}
	return hint.Wrap(fmt.Errorf("push %s: %w", target, err), "log in with `docker login` if the registry asks for credentials")
}

func newRemoveImageCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:   "rmi NAME",
		Short: "Remove an image from this machine and from the built-in registry",
		Args:  oneImage,
		RunE: func(c *cobra.Command, args []string) error {
			in := findInstance(c.Context(), g)
			full, err := in.fullName(args[0])
			if err != nil {
				return err
			}
			return in.remove(c.Context(), full, c.OutOrStdout())
		},
	}
}

func (in instance) remove(ctx context.Context, full string, out io.Writer) error {
	found := false
	if in.builtIn(full) {
		ref, err := name.ParseReference(full)
		if err != nil {
			return usageError{err}
		}
		err = remote.Delete(ref, remoteOptions(ctx)...)
		var answer *transport.Error
		switch {
		case err == nil:
			found = true
			fmt.Fprintf(out, "removed %s from the registry\n", full)
		case errors.As(err, &answer) && answer.StatusCode == http.StatusNotFound:
		default:
			return fmt.Errorf("remove %s from the registry: %w", full, err)
		}
	}
	machine := image.NewClient(in.dataDir)
	onMachine, err := machine.List(ctx)
	if err != nil {
		return err
	}
	if slices.ContainsFunc(onMachine, func(s image.Summary) bool { return s.Name == full }) {
		if err := machine.Remove(ctx, full); err != nil {
			return err
		}
		found = true
		fmt.Fprintf(out, "removed %s from this machine\n", full)
	}
	if !found {
		return hint.Wrap(fmt.Errorf("image %q: %w", full, fs.ErrNotExist), "`gantry images` lists what there is")
	}
	return nil
}

// transfer shows a pull or push.
func transfer(what string, run func(func(image.Progress)) (*image.Summary, error)) (*image.Summary, error) {
	display := progress.New(os.Stderr)
	task := display.Task(what)
	var last image.Stage
	got, err := run(func(p image.Progress) {
		if p.Total > 0 {
			task.Count(p.Bytes, p.Total)
		}
		if p.Stage != last {
			last = p.Stage
			task.Update("%s", p.Stage)
		}
	})
	if err != nil {
		task.Fail("not done")
	} else {
		task.Done("%s", size(got.SizeBytes))
	}
	display.Close()
	return got, err
}

// credentials are what `docker login` stored for the registry of a name.
func credentials(full string) (user, password string, err error) {
	ref, err := name.ParseReference(full)
	if err != nil {
		return "", "", usageError{err}
	}
	auth, err := authn.DefaultKeychain.Resolve(ref.Context())
	if err != nil {
		return "", "", fmt.Errorf("read docker's credentials: %w", err)
	}
	cfg, err := auth.Authorization()
	if err != nil {
		return "", "", fmt.Errorf("read docker's credentials: %w", err)
	}
	return cfg.Username, cfg.Password, nil
}

func oneImage(c *cobra.Command, args []string) error {
	if len(args) != 1 {
		return usageError{hint.Wrap(errors.New("want the name of one image"), "see `%s --help`", c.CommandPath())}
	}
	return nil
}
