// Package crd installs CustomResourceDefinitions (CRDs).
//
// Ensure may run at every start: what is installed already in the same version
// costs one read, and it returns only when the API serves all kinds. It never
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
	"time"

	"golang.org/x/sync/errgroup"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/dynamic"
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
	client, err := dynamic.NewForConfig(cfg)
	if err != nil {
		return fmt.Errorf("install kinds: %w", err)
	}
	names, err := fs.Glob(files, "*.yaml")
	if err != nil {
		return fmt.Errorf("install kinds: %w", err)
	}
	crds := client.Resource(resource)
	var installing errgroup.Group // validating a schema keeps a core busy for a while
	for _, file := range names {
		text, err := fs.ReadFile(files, file)
		if err != nil {
			return fmt.Errorf("install kinds: %w", err)
		}
		installing.Go(func() error {
			if err := ensure(ctx, crds, fieldManager, text); err != nil {
				return fmt.Errorf("install the kind of %s: %w", file, err)
			}
			return nil
		})
	}
	return installing.Wait()
}

func ensure(ctx context.Context, crds dynamic.ResourceInterface, fieldManager string, text []byte) error {
	found := nameLine.FindSubmatch(text)
	if found == nil || !bytes.Contains(text, annotation) {
		return fmt.Errorf("the definition has no name or no annotations where controller-gen writes them")
	}
	name, hash := string(found[1]), fmt.Sprintf("%x", sha256.Sum256(text))
	present, err := crds.Get(ctx, name, metav1.GetOptions{})
	if err == nil && present.GetAnnotations()[hashAnnotation] == hash && established(present) {
		return nil
	}
	text = bytes.Replace(text, annotation, fmt.Appendf(nil, "%s    %s: %s\n", annotation, hashAnnotation, hash), 1)
	force := true
	_, err = crds.Patch(ctx, name, types.ApplyPatchType, text, metav1.PatchOptions{FieldManager: fieldManager, Force: &force})
	if err != nil {
		return err
	}
	return wait.PollUntilContextTimeout(ctx, 20*time.Millisecond, 30*time.Second, true, func(ctx context.Context) (bool, error) {
		present, err := crds.Get(ctx, name, metav1.GetOptions{})
		return err == nil && established(present), err
	})
}

// established says whether the API serves the kind that a definition defines.
func established(crd *unstructured.Unstructured) bool {
	conditions, _, _ := unstructured.NestedSlice(crd.Object, "status", "conditions")
	for _, c := range conditions {
		c, _ := c.(map[string]any)
		if c["type"] == "Established" && c["status"] == "True" {
			return true
		}
	}
	return false
}
