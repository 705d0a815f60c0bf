package app

import (
	"context"
	"errors"
	"fmt"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/gantryhq/gantry/internal/hint"
	"github.com/gantryhq/gantry/internal/progress"
)

// DownOptions say what goes.
type DownOptions struct {
	Volumes bool // delete the volumes and what is in them too
	Display *progress.Display
}

// Down removes the application in namespace: everything gantry up made, except
// volumes unless asked to. It returns when the objects are gone.
func Down(ctx context.Context, cfg *rest.Config, namespace string, opt DownOptions) error {
	c, err := connect(cfg)
	if err != nil {
		return err
	}
	r, err := c.readRecord(ctx, namespace)
	if err != nil {
		return err
	}
	if r.version == "" {
		return hint.Wrap(fmt.Errorf("no application %q is deployed", namespace), "`gantry status` lists the applications")
	}
	task := opt.Display.Task("application " + namespace)
	var kept []objectRef
	for _, ref := range slices.Backward(r.Objects) {
		if ref.Kind == "Namespace" {
			continue // last, below
		}
		if ref.holdsData() && !opt.Volumes {
			kept = append(kept, ref)
			continue
		}
		task.Update("deleting %s", ref)
		if err := c.delete(ctx, ref.object(), metav1.DeletePropagationForeground); err != nil {
			task.Fail("%v", err)
			return err
		}
	}
	task.Update("waiting for containers to stop")
	if err := c.finishDown(ctx, namespace, r, kept); err != nil {
		task.Fail("%v", err)
		return err
	}
	task.Done("removed")
	for _, ref := range kept {
		opt.Display.Printf("kept: %s in namespace %s (remove it with --volumes)", ref, ref.Namespace)
	}
	return nil
}

// finishDown waits for the deleted objects and then removes either the whole
// namespace or, where volumes stay, only the record's memory of the rest.
func (c *cluster) finishDown(ctx context.Context, namespace string, r *record, kept []objectRef) error {
	if len(kept) > 0 {
		for _, ref := range missing(r.Objects, kept) {
			if ref.Kind == "Namespace" {
				continue
			}
			if err := c.waitDeleted(ctx, ref); err != nil {
				return err
			}
		}
		r.Objects = slices.Concat(kept, slices.DeleteFunc(slices.Clone(r.Objects), func(ref objectRef) bool { return ref.Kind != "Namespace" }))
		return c.writeRecord(ctx, namespace, r)
	}
	names := []string{namespace}
	for _, ref := range r.Objects {
		if ref.Kind == "Namespace" && !slices.Contains(names, ref.Name) {
			names = append(names, ref.Name)
		}
	}
	for _, name := range names {
		if err := c.deleteNamespace(ctx, name); err != nil {
			return err
		}
	}
	for _, name := range names {
		if err := c.gone(ctx, name); err != nil {
			return err
		}
	}
	return nil
}

func (c *cluster) waitDeleted(ctx context.Context, ref objectRef) error {
	client, err := c.client(ref.object(), "")
	var unknown noKind
	if errors.As(err, &unknown) {
		return nil
	}
	if err != nil {
		return err
	}
	for {
		_, err := client.Get(ctx, ref.Name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("wait for the end of %s: %w", ref, err)
		}
		if err := pause(ctx, pollInterval); err != nil {
			return fmt.Errorf("%s is still being deleted: %w", ref, err)
		}
	}
}

func (c *cluster) deleteNamespace(ctx context.Context, name string) error {
	err := c.kube.CoreV1().Namespaces().Delete(ctx, name, metav1.DeleteOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("delete namespace %s: %w", name, err)
	}
	return nil
}
