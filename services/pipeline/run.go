package pipeline

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/gantryhq/gantry/api/v1alpha1"
	"github.com/gantryhq/gantry/internal/app"
	"github.com/gantryhq/gantry/internal/hint"
)

const (
	maxAttempts  = 3
	imagesAtOnce = 4
	scanPatience = 30 * time.Second
	// minFreeBytes and minFreePercent of the disk must be free for a Build to start.
	minFreeBytes   = 256 << 20
	minFreePercent = 2
	// stopPatience is how long the end of a Build may take to be written when the
	// service stops.
	stopPatience = 5 * time.Second
)

// failure is an error with the word for Build.status.reason.
type failure struct {
	reason string
	error
}

func (f failure) Unwrap() error { return f.error }

func because(reason string, err error) error {
	if err == nil {
		return nil
	}
	return failure{reason, err}
}

// run is one Build that is carried out.
type run struct {
	*Service
	pipeline *v1alpha1.Pipeline
	build    *v1alpha1.Build
	log      *buildLog
	checkout string
}

// start carries out a Build in the background.
func (s *Service) start(ctx context.Context, b *v1alpha1.Build) {
	p := s.pipelineOf(b)
	if p == nil {
		s.end(ctx, b, v1alpha1.BuildFailed, "NoPipeline", "there is no pipeline "+b.Spec.Pipeline)
		return
	}
	buildCtx, cancel := context.WithCancelCause(ctx)
	s.mu.Lock()
	s.running[key(b)] = cancel
	s.mu.Unlock()
	s.work.Go(func() {
		defer s.wake()
		defer func() {
			s.mu.Lock()
			delete(s.running, key(b))
			s.mu.Unlock()
			cancel(nil)
		}()
		if err := s.carryOut(ctx, buildCtx, p, b); err != nil && ctx.Err() == nil {
			s.cfg.Log.Error("cannot carry out a build", "build", key(b), "err", err)
		}
	})
}

// carryOut runs a Build to its end. serviceCtx ends with the service: then the Build
// is left for the next one.
func (s *Service) carryOut(serviceCtx, ctx context.Context, p *v1alpha1.Pipeline, b *v1alpha1.Build) error {
	log, err := s.logs.create(b.Namespace, b.Name)
	if err != nil {
		s.end(serviceCtx, b, v1alpha1.BuildFailed, "DiskFull", err.Error())
		return err
	}
	defer s.logs.end(b.Namespace, b.Name)
	r := &run{Service: s, pipeline: p, build: b, log: log, checkout: filepath.Join(s.cfg.Dir, "work", b.Namespace, p.Name)}
	defer os.RemoveAll(r.checkout)
	now := metav1.Now()
	b.Status = v1alpha1.BuildStatus{StartTime: &now, Attempts: b.Status.Attempts}
	ctx, cancel := context.WithTimeoutCause(ctx, time.Duration(p.Spec.TimeoutSeconds)*time.Second,
		failure{"TimedOut", fmt.Errorf("the build took longer than %d s (spec.timeoutSeconds)", p.Spec.TimeoutSeconds)})
	defer cancel()
	for attempt := int32(1); ; attempt++ {
		b.Status.Attempts = attempt
		err = r.steps(ctx)
		if serviceCtx.Err() != nil {
			log.printf("interrupted: the service stops; the next one begins this build again")
			return nil
		}
		if err == nil || ctx.Err() != nil || !transient(err) || attempt == maxAttempts {
			break
		}
		log.printf("attempt %d failed: %v; trying again", attempt, err)
		select {
		case <-ctx.Done():
		case <-time.After(time.Duration(attempt) * 2 * time.Second):
		}
	}
	if cause := context.Cause(ctx); cause != nil && err != nil {
		err = cause
	}
	r.finish(serviceCtx, err)
	return nil
}

func transient(err error) bool {
	var t interface{ Transient() bool }
	return errors.As(err, &t) && t.Transient()
}

// finish writes the end of a Build.
func (r *run) finish(ctx context.Context, err error) {
	phase, reason, message := v1alpha1.BuildSucceeded, "", ""
	switch {
	case errors.Is(err, errOvertaken):
		phase, reason, message = v1alpha1.BuildCancelled, "Superseded", err.Error()
	case err != nil:
		phase, reason, message = v1alpha1.BuildFailed, "Failed", err.Error()
		var f failure
		if errors.As(err, &f) {
			reason = f.reason
		}
		if errors.Is(err, unix.ENOSPC) || strings.Contains(message, unix.ENOSPC.Error()) {
			reason = "DiskFull"
		}
		if h := hint.Of(err); h != "" {
			message += "\nhint: " + h
		}
	}
	if phase == v1alpha1.BuildSucceeded {
		r.log.last(fmt.Sprintf("build %d succeeded\n", r.build.Spec.Number))
	} else {
		r.log.last(fmt.Sprintf("error: %s\nbuild %d %s: %s\n", message, r.build.Spec.Number, strings.ToLower(string(phase)), reason))
	}
	r.end(ctx, r.build, phase, reason, message)
}

// end writes that a Build is over, and what follows from it.
func (s *Service) end(ctx context.Context, b *v1alpha1.Build, phase v1alpha1.BuildPhase, reason, message string) {
	now := metav1.Now()
	if b.Status.StartTime == nil {
		b.Status.StartTime = &now
	}
	b.Status.Phase, b.Status.Reason, b.Status.Message, b.Status.CompletionTime = phase, reason, clip(message, 8000), &now
	b.Status.DurationSeconds = int64(now.Sub(b.Status.StartTime.Time).Round(time.Second).Seconds())
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopPatience)
	defer cancel()
	if err := s.patchBuild(ctx, b); err != nil {
		s.cfg.Log.Error("cannot write the end of a build", "build", key(b), "err", err)
		return
	}
	switch phase {
	case v1alpha1.BuildSucceeded:
		s.event(ctx, b, corev1.EventTypeNormal, "Succeeded", fmt.Sprintf("build %d succeeded", b.Spec.Number))
	case v1alpha1.BuildFailed:
		s.event(ctx, b, corev1.EventTypeWarning, reason, message)
	}
	s.progress(ctx, b)
	if err := s.prune(ctx, b); err != nil {
		s.cfg.Log.Warn("cannot remove old builds", "pipeline", pipelineKey(b), "err", err)
	}
}

// phase says how far the Build has come.
func (r *run) phase(ctx context.Context, phase v1alpha1.BuildPhase) error {
	r.build.Status.Phase = phase
	if err := r.patchBuild(ctx, r.build); err != nil {
		return err
	}
	r.progress(ctx, r.build)
	return nil
}

// progress tells the Pipeline of its Build, when it is the newest, and of what it deployed.
func (s *Service) progress(ctx context.Context, b *v1alpha1.Build) {
	p := s.pipelineOf(b)
	if p == nil {
		return
	}
	status := map[string]any{}
	if last := p.Status.LastBuild; last == nil || last.Number <= b.Spec.Number {
		status["lastBuild"] = v1alpha1.PipelineLastBuild{Number: b.Spec.Number, Phase: b.Status.Phase}
	}
	if d := b.Status.Deployment; d != nil && b.Status.Phase == v1alpha1.BuildSucceeded && d.Ready {
		status["deployedBuild"] = b.Spec.Number
	} else if d != nil && d.RolledBackTo > 0 {
		status["deployedBuild"] = d.RolledBackTo
	}
	if len(status) == 0 {
		return
	}
	if err := s.patchPipeline(ctx, b.Namespace, p.Name, status); err != nil && ctx.Err() == nil {
		s.cfg.Log.Warn("cannot write a pipeline's status", "err", err)
	}
}

// steps are what a Build does, in order.
func (r *run) steps(ctx context.Context) error {
	if err := enoughDisk(r.cfg.Dir); err != nil {
		return because("DiskFull", err)
	}
	if r.build.Spec.Redeploy > 0 {
		return r.redeploy(ctx)
	}
	if err := r.phase(ctx, v1alpha1.BuildFetching); err != nil {
		return err
	}
	if err := r.fetch(ctx); err != nil {
		return because("FetchFailed", err)
	}
	application, err := r.load(ctx)
	if err != nil {
		return because("InvalidApplication", err)
	}
	if err := r.phase(ctx, v1alpha1.BuildBuilding); err != nil {
		return err
	}
	if err := r.buildImages(ctx, application); err != nil {
		return because("BuildFailed", err)
	}
	scanned := r.awaitScans(ctx) // while the test runs
	if r.pipeline.Spec.Test != nil {
		if err := r.phase(ctx, v1alpha1.BuildTesting); err != nil {
			return err
		}
		if err := r.test(ctx); err != nil {
			return because("TestFailed", err)
		}
	}
	r.build.Status.Images = <-scanned
	if application == nil {
		return nil
	}
	if err := context.Cause(ctx); err != nil {
		return err
	}
	if err := r.phase(ctx, v1alpha1.BuildDeploying); err != nil {
		return err
	}
	return r.deploy(ctx, application)
}

// awaitScans waits for the scans of what was built, but not for long: whether an image
// without one may run is for a TrustPolicy to say.
func (r *run) awaitScans(ctx context.Context) <-chan []v1alpha1.BuiltImage {
	images := slices.Clone(r.build.Status.Images)
	done := make(chan []v1alpha1.BuiltImage, 1)
	go func() {
		ctx, cancel := context.WithTimeoutCause(ctx, scanPatience, fmt.Errorf("there is no result after %v", scanPatience))
		defer cancel()
		var group errgroup.Group
		for i := range images {
			group.Go(func() error {
				if err := r.cfg.Builder.Scanned(ctx, &images[i]); err != nil {
					r.log.printf("warning: %s is not scanned: %v", images[i].Name, err)
				} else {
					r.log.printf("scanned %s: %s", images[i].Name, images[i].Scan)
				}
				return nil
			})
		}
		_ = group.Wait() // nothing above fails
		done <- images
	}()
	return done
}

// enoughDisk says that a Build would only fill the disk, or nil.
func enoughDisk(dir string) error {
	var st unix.Statfs_t
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if err := unix.Statfs(dir, &st); err != nil {
		return err
	}
	free, total := int64(st.Bavail)*st.Bsize, int64(st.Blocks)*st.Bsize
	if least := max(total/100*minFreePercent, minFreeBytes); free < least && free < total/4 {
		return hint.Wrap(fmt.Errorf("the disk of %s is nearly full: %d MB are free, a build needs %d MB", dir, free>>20, least>>20),
			"what runs goes on running; free space, then `gantry pipeline run` again")
	}
	return nil
}

func (r *run) fetch(ctx context.Context) error {
	repo, err := r.repository(ctx, r.pipeline)
	if err != nil {
		return err
	}
	r.log.printf("fetching %s of %s", r.pipeline.Spec.Source.Branch, r.pipeline.Spec.Source.URL)
	commit, err := repo.fetch(ctx, r.build.Spec.Commit)
	if err != nil {
		return err
	}
	r.build.Status.Commit = describe(commit)
	c := r.build.Status.Commit
	if r.build.Spec.Commit == "" { // the newest: nobody needs to build it again
		if err := r.patchPipeline(ctx, r.build.Namespace, r.pipeline.Name, map[string]any{"lastCommit": c.ID}); err != nil {
			return err
		}
	}
	r.log.printf("commit %s by %s: %s", c.Short, c.Author, c.Message)
	return checkout(commit, r.checkout, checkoutBounds)
}

// load reads the application to deploy, or returns nil when there is none.
func (r *run) load(ctx context.Context) (*app.Application, error) {
	d := r.pipeline.Spec.Deploy
	if d == nil {
		return nil, nil
	}
	namespace := d.Namespace
	if namespace == "" {
		namespace = r.build.Namespace
	}
	if len(d.SetImages) > 0 {
		return r.imageChanges(namespace)
	}
	a, err := r.cfg.Load(ctx, r.checkout, cmp.Or(d.Path, "."), namespace)
	if err != nil {
		return nil, err
	}
	for _, w := range a.Warnings {
		r.log.printf("warning: %s", w)
	}
	if a.Namespace != namespace {
		return nil, hint.Wrap(fmt.Errorf("the application wants to be in namespace %s, the pipeline deploys to %s", a.Namespace, namespace), "say spec.deploy.namespace")
	}
	a.InNamespace()
	return a, nil
}

// buildImages builds everything that the Pipeline and the application name.
func (r *run) buildImages(ctx context.Context, application *app.Application) error {
	requests := map[string]app.BuildRequest{} // by the name that objects use
	for _, i := range r.pipeline.Spec.Images {
		requests[i.Name] = app.BuildRequest{
			Repository: i.Name, Context: filepath.Join("/", i.Context), Dockerfile: filepath.Join("/", i.Context, i.Dockerfile), Target: i.Target, Args: i.Args,
		}
	}
	if application != nil {
		for _, i := range application.Images {
			requests[i.Name] = i.Build
		}
	}
	refs := map[string]string{}
	built := make(chan struct {
		name  string
		image v1alpha1.BuiltImage
	}, len(requests))
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(imagesAtOnce)
	for name, request := range requests {
		request, err := r.confine(request)
		if err != nil {
			return err
		}
		group.Go(func() error {
			image, err := r.cfg.Builder.Build(groupCtx, ImageRequest{
				BuildRequest: request, Tag: strconv.FormatInt(r.build.Spec.Number, 10), NoNetwork: r.pipeline.Spec.Network == "None",
				Pipeline: pipelineKey(r.build), Repository: r.pipeline.Spec.Source.URL, Commit: r.build.Status.Commit.ID,
				Log: &prefixed{log: r.log, prefix: request.Repository + ": "},
			})
			if err != nil {
				return fmt.Errorf("build %s: %w", request.Repository, err)
			}
			built <- struct {
				name  string
				image v1alpha1.BuiltImage
			}{name, image}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	close(built)
	r.build.Status.Images = nil
	for b := range built {
		refs[b.name] = b.image.Reference
		r.build.Status.Images = append(r.build.Status.Images, b.image)
		r.log.printf("built %s:%s, %s", b.image.Name, b.image.Tag, b.image.Reference)
	}
	if application == nil {
		return nil
	}
	return application.UseBuilt(refs)
}

// confine makes what a repository asks to build harmless: folders are those of the
// checkout, links included, and the image goes below the namespace in the registry.
func (r *run) confine(request app.BuildRequest) (app.BuildRequest, error) {
	if !strings.HasPrefix(request.Repository, r.build.Namespace+"/") {
		if strings.Contains(request.Repository, "/") {
			return request, hint.Wrap(fmt.Errorf("image %s is not below %s/ in the registry, where this pipeline's images belong", request.Repository, r.build.Namespace),
				"name it %s/%s", r.build.Namespace, filepath.Base(request.Repository))
		}
		request.Repository = r.build.Namespace + "/" + request.Repository
	}
	root, err := os.OpenRoot(r.checkout)
	if err != nil {
		return request, err
	}
	defer root.Close()
	for _, path := range []*string{&request.Context, &request.Dockerfile} {
		if path == &request.Dockerfile && request.DockerfileInline != "" {
			continue
		}
		relative := strings.TrimPrefix(filepath.Clean("/"+*path), "/")
		if relative == "" {
			relative = "."
		}
		if _, err := root.Stat(relative); err != nil {
			return request, fmt.Errorf("image %s: the repository has no %s, or it leads out of the repository: %w", request.Repository, relative, err)
		}
		*path = filepath.Join(r.checkout, relative)
	}
	return request, nil
}

// prefixed writes whole lines to a log, each with a prefix.
type prefixed struct {
	log    *buildLog
	prefix string
	rest   string
}

func (p *prefixed) Write(b []byte) (int, error) {
	p.rest += string(b)
	lines := strings.Split(p.rest, "\n")
	p.rest = lines[len(lines)-1]
	for _, line := range lines[:len(lines)-1] {
		if line != "" {
			p.log.printf("%s%s", p.prefix, line)
		}
	}
	return len(b), nil
}
