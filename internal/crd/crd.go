// Package crd installs CustomResourceDefinitions (CRDs).
//
// Ensure may run at every start: what is installed already in the same version
// is only looked at, and it returns when the API serves all kinds. It never
// removes one, because that would remove the objects of its kind.
//
// Imported by the services that have kinds of their own.
package crd

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io/fs"
	"regexp"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
)

// hashAnnotation holds a hash of the definition's text, so that one that is
// already installed is recognised without comparing it.
const hashAnnotation = "gantry.dev/definition-hash"

var (
	nameLine   = regexp.MustCompile(`(?m)^  name: (\S+)$`)
	annotation = []byte("\n  annotations:\n")
)

var resource = schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}

// Ensure installs the definitions in files (one per *.yaml, with metadata as
// controller-gen writes it) by server-side apply as fieldManager, and waits until
// the API serves them. It needs an administrator.
func Ensure(ctx context.Context, cfg *rest.Config, fieldManager string, files fs.FS) error {
	return ensure(ctx, cfg, fieldManager, files, false)
}

// EnsureUnlessForeign is Ensure, but leaves alone what somebody else has installed: kinds that other
// products define as well, and of which they may bring a newer version.
func EnsureUnlessForeign(ctx context.Context, cfg *rest.Config, fieldManager string, files fs.FS) error {
	return ensure(ctx, cfg, fieldManager, files, true)
}

func ensure(ctx context.Context, cfg *rest.Config, fieldManager string, files fs.FS, leaveForeign bool) error {
	wanted, err := read(files)
	if err != nil {
		return fmt.Errorf("install kinds: %w", err)
	}
	client, err := metadata.NewForConfig(cfg) // definitions are large, and only their annotations matter
	if err != nil {
		return fmt.Errorf("install kinds: %w", err)
	}
	crds := client.Resource(resource)
	present, err := crds.List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("list kinds: %w", err)
	}
	hashes := map[string]string{}
	for _, d := range present.Items {
		hashes[d.Name] = d.Annotations[hashAnnotation]
	}
	var installing errgroup.Group // validating a schema keeps a core busy for a while
	for _, d := range wanted {
		if hash, here := hashes[d.name]; hash == d.hash || here && hash == "" && leaveForeign {
			continue
		}
		installing.Go(func() error {
			force := true
			_, err := crds.Patch(ctx, d.name, types.ApplyPatchType, d.annotated(), metav1.PatchOptions{FieldManager: fieldManager, Force: &force})
			if err != nil {
				return fmt.Errorf("install the kind of %s: %w", d.file, err)
			}
			return nil
		})
	}
	if err := installing.Wait(); err != nil {
		return err
	}
	if err := awaitServed(ctx, cfg, wanted); err != nil {
		return fmt.Errorf("wait until the API serves new kinds: %w", err)
	}
	return nil
}

// definition is one as it is wanted.
type definition struct {
	file string
	name string // PLURAL.GROUP
	hash string
	text []byte
}

func read(files fs.FS) (list []definition, err error) {
	names, err := fs.Glob(files, "*.yaml")
	if err != nil {
		return nil, err
	}
	for _, file := range names {
		text, err := fs.ReadFile(files, file)
		if err != nil {
			return nil, err
		}
		found := nameLine.FindSubmatch(text)
		if found == nil || !bytes.Contains(text, annotation) {
			return nil, fmt.Errorf("%s has no name or no annotations where controller-gen writes them", file)
		}
		list = append(list, definition{file: file, name: string(found[1]), hash: fmt.Sprintf("%x", sha256.Sum256(text)), text: text})
	}
	return list, nil
}

// annotated is the text with its hash.
func (d definition) annotated() []byte {
	return bytes.Replace(d.text, annotation, fmt.Appendf(nil, "%s    %s: %s\n", annotation, hashAnnotation, d.hash), 1)
}

// servedPoll is how often the API is asked whether it serves new kinds, and
// servedPatience for how long.
const servedPoll, servedPatience = 10 * time.Millisecond, 30 * time.Second

// awaitServed waits until the API says of all kinds that it serves them. Asking for the
// definitions instead would have each decoded and encoded as often.
func awaitServed(ctx context.Context, cfg *rest.Config, wanted []definition) error {
	client, err := discovery.NewDiscoveryClientForConfig(cfg)
	if err != nil {
		return err
	}
	missing := map[string][]string{} // by group, the plurals
	for _, d := range wanted {
		plural, group, _ := strings.Cut(d.name, ".")
		missing[group] = append(missing[group], plural)
	}
	err = wait.PollUntilContextTimeout(ctx, servedPoll, servedPatience, true, func(ctx context.Context) (bool, error) {
		for group, plurals := range missing {
			served, err := servedBy(ctx, client.RESTClient(), group)
			if err != nil {
				return false, err
			}
			plurals = slices.DeleteFunc(plurals, func(plural string) bool { return served[plural] })
			if missing[group] = plurals; len(plurals) == 0 {
				delete(missing, group)
			}
		}
		return len(missing) == 0, nil
	})
	if wait.Interrupted(err) && ctx.Err() == nil {
		return fmt.Errorf("%v are not there after %v", missing, servedPatience)
	}
	return err
}

// servedBy are the plurals of the kinds that the API serves of a group, in whichever version.
func servedBy(ctx context.Context, api rest.Interface, group string) (map[string]bool, error) {
	served := map[string]bool{}
	var versions metav1.APIGroup
	err := api.Get().AbsPath("/apis", group).Do(ctx).Into(&versions)
	if apierrors.IsNotFound(err) {
		return served, nil
	}
	for _, v := range versions.Versions {
		var list metav1.APIResourceList
		if err := api.Get().AbsPath("/apis", v.GroupVersion).Do(ctx).Into(&list); err != nil && !apierrors.IsNotFound(err) {
			return nil, err
		}
		for _, r := range list.APIResources {
			served[r.Name] = true
		}
	}
	return served, err
}
