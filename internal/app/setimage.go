package app

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"

	"github.com/gantryhq/gantry/internal/hint"
	"github.com/gantryhq/gantry/internal/progress"
)

// ImageChange gives a container of a workload that is in the cluster already another image,
// as `kubectl set image` does.
type ImageChange struct {
	Kind      string // Deployment, StatefulSet or DaemonSet
	Name      string
	Container string // "" is the only one
	Image     string // as Images calls it, until [Application.UseBuilt]; then what runs
	Former    string `json:",omitempty"` // what ran before, once [Application.FindFormer] has found out
}

// workload is the object whose image changes.
func (i ImageChange) workload() *Object {
	u := &unstructured.Unstructured{}
	u.SetGroupVersionKind(schema.GroupVersionKind{Group: "apps", Version: "v1", Kind: i.Kind})
	u.SetName(i.Name)
	o := &Object{Unstructured: u}
	o.Origin = o.String()
	return o
}

// FindFormer notes in each of the application's ImageChanges which container it is about and
// which image that has now.
func (a *Application) FindFormer(ctx context.Context, cfg *rest.Config) error {
	c, err := connect(cfg)
	if err != nil {
		return err
	}
	for i := range a.ImageChanges {
		change := &a.ImageChanges[i]
		o := change.workload()
		client, err := c.client(o.Unstructured, a.Namespace)
		if err != nil {
			return err
		}
		u, err := client.Get(ctx, change.Name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return hint.Wrap(fmt.Errorf("there is no %s in namespace %s, whose image is to change", o, a.Namespace),
				"make it once, with kubectl or Argo; or let the pipeline deploy manifests")
		}
		if err != nil {
			return fmt.Errorf("read %s: %w", o, err)
		}
		if change.Container, change.Former, err = containerOf(u, change.Container); err != nil {
			return fmt.Errorf("%s in namespace %s: %w", o, a.Namespace, err)
		}
	}
	return nil
}

// containerOf returns the name and the image of a container, "" for the only one.
func containerOf(workload *unstructured.Unstructured, name string) (container, image string, err error) {
	containers, _, _ := unstructured.NestedSlice(workload.Object, "spec", "template", "spec", "containers")
	var names []string
	for _, each := range containers {
		c, _ := each.(map[string]any)
		found, _, _ := unstructured.NestedString(c, "name")
		names = append(names, found)
		if found == name || name == "" && len(containers) == 1 {
			image, _, _ := unstructured.NestedString(c, "image")
			return found, image, nil
		}
	}
	if name == "" {
		return "", "", hint.Wrap(errors.New("it has several containers"), "say which: %v", names)
	}
	return "", "", fmt.Errorf("it has no container %s, only %v", name, names)
}

// Formerly is an application that gives the workloads back the images they had before, or
// nil when there are no ImageChanges.
func (a *Application) Formerly() *Application {
	if len(a.ImageChanges) == 0 {
		return nil
	}
	back := &Application{Name: a.Name, Namespace: a.Namespace, ImageChanges: slices.Clone(a.ImageChanges)}
	for i := range back.ImageChanges {
		back.ImageChanges[i].Image = a.ImageChanges[i].Former
	}
	return back
}

// changeImages changes the images and returns when the workloads have rolled out.
func changeImages(ctx context.Context, c *cluster, app *Application, opt DeployOptions) (*Result, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, opt.Timeout, errNotReady)
	defer cancel()
	result := &Result{}
	w := &waiter{cluster: c, namespace: app.Namespace, display: opt.Display, tasks: map[*Object]*progress.Task{}}
	var workloads []*Object
	// One change of a workload, and so one rollout, whatever the number of containers.
	for _, group := range byWorkload(app.ImageChanges) {
		o := group[0].workload()
		if err := c.setImages(ctx, app.Namespace, o, group); err != nil {
			return nil, err
		}
		result.Changed = append(result.Changed, o.String())
		workloads = append(workloads, o)
	}
	if err := w.wait(ctx, workloads, func(*Object) await { return awaitReady }); err != nil {
		return nil, err
	}
	return result, nil
}

func byWorkload(changes []ImageChange) (groups [][]ImageChange) {
	for _, c := range changes {
		i := slices.IndexFunc(groups, func(g []ImageChange) bool { return g[0].Kind == c.Kind && g[0].Name == c.Name })
		if i < 0 {
			groups = append(groups, []ImageChange{c})
			continue
		}
		groups[i] = append(groups[i], c)
	}
	return groups
}

func (c *cluster) setImages(ctx context.Context, namespace string, o *Object, changes []ImageChange) error {
	type container struct {
		Name  string `json:"name"`
		Image string `json:"image"`
	}
	var containers []container
	for _, change := range changes {
		containers = append(containers, container{change.Container, change.Image})
	}
	body, err := json.Marshal(map[string]any{"spec": map[string]any{"template": map[string]any{"spec": map[string]any{"containers": containers}}}})
	if err != nil {
		return err
	}
	client, err := c.client(o.Unstructured, namespace)
	if err != nil {
		return err
	}
	_, err = client.Patch(ctx, o.GetName(), types.StrategicMergePatchType, body, metav1.PatchOptions{FieldManager: FieldManager})
	if err != nil {
		return fmt.Errorf("give %s in namespace %s another image: %w", o, namespace, err)
	}
	return nil
}
