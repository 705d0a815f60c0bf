package app

import (
	"context"
	"errors"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/rest"

	"golang.org/x/sync/errgroup"

	"github.com/gantryhq/gantry/internal/platform"
	"github.com/gantryhq/gantry/internal/progress"
)

// DeployOptions say how to deploy.
type DeployOptions struct {
	Builder Builder           // may be nil when the application builds nothing
	Display *progress.Display // never nil
	Timeout time.Duration     // for becoming ready, after building
	NoCache bool              // build even when the inputs are unchanged
}

// Result is what a successful Deploy made.
type Result struct {
	URLs    []string
	Changed []string // objects whose specification changed or that are new
	Removed []string
}

// buildsAtOnce bounds parallel builds; equal steps of several images run once.
const buildsAtOnce = 8

// Deploy makes the cluster agree with app and returns when everything is ready. Of an app
// that has ImageChanges it changes these and nothing else.
func Deploy(ctx context.Context, cfg *rest.Config, app *Application, opt DeployOptions) (*Result, error) {
	c, err := connect(cfg)
	if err != nil {
		return nil, err
	}
	if len(app.ImageChanges) > 0 {
		return changeImages(ctx, c, app, opt)
	}
	d := &deployment{cluster: c, app: app, opt: opt, result: &Result{}}
	created, err := c.ensureNamespace(ctx, app)
	if err != nil {
		return nil, err
	}
	if err := d.prepare(ctx); err != nil {
		if created { // leave nothing behind of what never came to be
			clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
			defer cancel()
			err = errors.Join(err, c.deleteNamespace(clean, app.Namespace))
		}
		return nil, err
	}
	if err := d.run(ctx); err != nil {
		return nil, err
	}
	if d.result.URLs, err = c.urls(ctx, app.Namespace); err != nil {
		return nil, err
	}
	c.awaitRoutes(ctx, d.result.URLs)
	return d.result, nil
}

// deployment is one run of Deploy.
type deployment struct {
	*cluster
	app    *Application
	opt    DeployOptions
	record *record
	result *Result
}

// prepare does everything that can fail without changing what runs: reading the
// record, validation by the server, building.
func (d *deployment) prepare(ctx context.Context) error {
	var err error
	if d.record, err = d.readRecord(ctx, d.app.Namespace); err != nil {
		return err
	}
	if err := d.validate(ctx, d.app); err != nil {
		return err
	}
	refs, err := d.build(ctx)
	if err != nil {
		return err
	}
	return d.app.pin(refs)
}

// run applies the waves one after the other, waits until all is ready, and
// deletes what is no longer declared.
func (d *deployment) run(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, d.opt.Timeout, errNotReady)
	defer cancel()
	now, err := d.refs(d.app)
	if err != nil {
		return err
	}
	before := d.record.Objects
	d.record.Name, d.record.Source = d.app.Name, d.app.Source
	d.record.Objects = union(now, before)
	if err := d.writeRecord(ctx, d.app.Namespace, d.record); err != nil {
		return err
	}
	w := &waiter{cluster: d.cluster, namespace: d.app.Namespace, display: d.opt.Display, tasks: map[*Object]*progress.Task{}}
	if info, err := platform.Read(ctx, d.kube); err == nil {
		w.oneHost = info.DataDir != ""
	}
	if err := d.applyWaves(ctx, w); err != nil {
		return err
	}
	if err := w.wait(ctx, d.app.Objects, func(*Object) await { return awaitReady }); err != nil {
		return err
	}
	obsolete := missing(before, now)
	for _, ref := range obsolete {
		if ref.holdsData() {
			d.opt.Display.Printf("kept: %s is no longer declared but holds data (kubectl -n %s delete %s)", ref, ref.Namespace, ref)
			now = append(now, ref)
			continue
		}
		if err := d.delete(ctx, ref.object(), metav1.DeletePropagationBackground); err != nil {
			return err
		}
		d.result.Removed = append(d.result.Removed, ref.String())
	}
	d.record.Objects = now
	return d.writeRecord(ctx, d.app.Namespace, d.record)
}

func (d *deployment) applyWaves(ctx context.Context, w *waiter) error {
	objects := d.app.Objects
	for start := 0; start < len(objects); {
		end := start
		for end < len(objects) && objects[end].Wave == objects[start].Wave {
			end++
		}
		for _, o := range objects[start:end] {
			if err := d.applyOne(ctx, o); err != nil {
				return err
			}
		}
		if end < len(objects) {
			if err := w.wait(ctx, objects[:end], func(o *Object) await { return o.Await }); err != nil {
				return err
			}
		}
		start = end
	}
	return nil
}

// applyOne applies an object and notes whether that changed anything.
func (d *deployment) applyOne(ctx context.Context, o *Object) error {
	client, err := d.client(o.Unstructured, d.app.Namespace)
	if err != nil {
		return fmt.Errorf("%s: %w", o.Origin, err)
	}
	before, err := client.Get(ctx, o.GetName(), metav1.GetOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("%s: read %s: %w", o.Origin, o, err)
	}
	after, err := d.apply(ctx, o, d.app.Namespace, false)
	if replaceable(o, err) {
		if err := client.Delete(ctx, o.GetName(), metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("%s: replace %s: %w", o.Origin, o, err)
		}
		after, err = d.apply(ctx, o, d.app.Namespace, false)
	}
	if err != nil {
		return err
	}
	if stopSignal(o.Unstructured) != "" && stopSignal(after) == "" {
		d.opt.Display.Printf("warning: %s.stop_signal has no effect: the cluster has the feature ContainerStopSignals turned off; STOPSIGNAL in the Dockerfile works", o.Origin)
	}
	if before == nil || before.GetUID() != after.GetUID() || before.GetGeneration() != after.GetGeneration() {
		d.result.Changed = append(d.result.Changed, o.String())
	}
	return nil
}

// stopSignal is the signal that the first container of a workload is stopped by.
func stopSignal(workload *unstructured.Unstructured) string {
	containers, _, _ := unstructured.NestedSlice(workload.Object, "spec", "template", "spec", "containers")
	if len(containers) == 0 {
		return ""
	}
	first, _ := containers[0].(map[string]any)
	signal, _, _ := unstructured.NestedString(first, "lifecycle", "stopSignal")
	return signal
}

// build makes all images whose inputs changed and returns the pinned references
// by the names the manifests use.
func (d *deployment) build(ctx context.Context) (map[string]string, error) {
	refs := make([]string, len(d.app.Images))
	inputs := make([]string, len(d.app.Images))
	group, buildCtx := errgroup.WithContext(ctx)
	group.SetLimit(buildsAtOnce)
	for i, image := range d.app.Images {
		task := d.opt.Display.Task("image " + image.Build.Repository)
		group.Go(func() error {
			var err error
			refs[i], inputs[i], err = d.buildOne(buildCtx, image.Build, task)
			if err == nil {
				return nil
			}
			if buildCtx.Err() != nil && ctx.Err() == nil {
				task.Fail("stopped: another image failed")
				return context.Canceled
			}
			task.Fail("%v", err)
			return fmt.Errorf("build %s: %w", image.Build.Repository, err)
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	byName := map[string]string{}
	d.record.Builds = map[string]built{}
	for i, image := range d.app.Images {
		byName[image.Name] = refs[i]
		d.record.Builds[image.Build.Repository] = built{Input: inputs[i], Ref: refs[i]}
	}
	return byName, nil
}

func (d *deployment) buildOne(ctx context.Context, r BuildRequest, task *progress.Task) (ref, input string, err error) {
	r.NoCache = r.NoCache || d.opt.NoCache
	r.Progress = func(step string) { task.Update("%s", step) }
	bases, err := d.opt.Builder.Base(ctx, r)
	if err != nil {
		return "", "", err
	}
	if input, err = r.inputHash(bases); err != nil {
		return "", "", err
	}
	if last, ok := d.record.Builds[r.Repository]; ok && last.Input == input && !r.NoCache {
		there, err := d.opt.Builder.Has(ctx, last.Ref)
		if err != nil {
			return "", "", err
		}
		if there {
			task.Done("unchanged")
			return last.Ref, input, nil
		}
	}
	if ref, err = d.opt.Builder.Build(ctx, r); err != nil {
		return "", "", err
	}
	task.Done("built")
	return ref, input, nil
}
