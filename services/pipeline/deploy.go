package pipeline

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/gantryhq/gantry/api/v1alpha1"
	"github.com/gantryhq/gantry/internal/app"
	"github.com/gantryhq/gantry/internal/hint"
	"github.com/gantryhq/gantry/internal/progress"
)

const (
	// deployedType is the type of the Secret that keeps what a Build deployed.
	deployedType = "gantry.dev/deployed-application"
	deployedKey  = "application.json.gz"
	maxDeployed  = 64 << 20 // bytes, unpacked
	// rollbackPatience is for a rollback when nothing else says how long.
	rollbackPatience = 5 * time.Minute
)

// deploy deploys the application and, when it does not become ready, the last good
// one again.
func (r *run) deploy(ctx context.Context, application *app.Application) error {
	if err := r.former(ctx, application); err != nil {
		return because("DeployFailed", err)
	}
	if err := r.keep(ctx, application); err != nil {
		return because("DeployFailed", err)
	}
	d := &v1alpha1.BuildDeployment{Application: application.Name, Namespace: application.Namespace, Redeployed: r.build.Spec.Redeploy}
	r.build.Status.Deployment = d
	result, err := r.apply(ctx, application)
	if err == nil {
		d.Ready, d.URLs = true, result.URLs
		return nil
	}
	err = because("DeployFailed", err)
	if ctx.Err() != nil && errors.Is(context.Cause(ctx), context.Canceled) {
		return err // the service stops, or the Build was deleted
	}
	spec := r.pipeline.Spec.Deploy
	if spec != nil && spec.Rollback != nil && !*spec.Rollback {
		return err
	}
	good, findErr := r.lastGood(ctx)
	before := application.Formerly()
	if findErr != nil || good == 0 && before == nil {
		return errors.Join(err, findErr)
	}
	what := "what ran before this build"
	if good > 0 {
		what = fmt.Sprintf("build %d", good)
	}
	r.log.printf("error: %v", err)
	r.log.printf("the application did not become ready: deploying %s again", what)
	rollbackCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), rollbackPatience)
	defer cancel()
	if backErr := r.goBack(rollbackCtx, good, before); backErr != nil {
		return errors.Join(err, fmt.Errorf("deploy %s again: %w", what, backErr))
	}
	d.RolledBackTo = good
	return because("RolledBack", hint.Wrap(fmt.Errorf("%s runs again, because this one did not become ready: %w", what, err), "%s", hint.Of(err)))
}

// goBack deploys a Build again, or what ran before when there is none.
func (r *run) goBack(ctx context.Context, good int64, before *app.Application) (err error) {
	if good > 0 {
		if before, err = r.kept(ctx, good); err != nil {
			return err
		}
	}
	_, err = r.apply(ctx, before)
	return err
}

// imageChanges is the application of a Pipeline that sets images of what is there.
func (r *run) imageChanges(namespace string) (*app.Application, error) {
	a := &app.Application{Name: r.pipeline.Name, Namespace: namespace}
	for _, s := range r.pipeline.Spec.Deploy.SetImages {
		if !slices.ContainsFunc(r.pipeline.Spec.Images, func(i v1alpha1.PipelineImage) bool {
			return i.Name == s.Image || i.Name == namespace+"/"+s.Image
		}) {
			return nil, hint.Wrap(fmt.Errorf("%s %s is to run image %s, which is none of spec.images", s.Kind, s.Name, s.Image), "add it there")
		}
		a.ImageChanges = append(a.ImageChanges, app.ImageChange{Kind: s.Kind, Name: s.Name, Container: s.Container, Image: s.Image})
	}
	return a, nil
}

// former notes which images run before the application's change. What an attempt that was
// interrupted noted counts: it may have changed some.
func (r *run) former(ctx context.Context, application *app.Application) error {
	if len(application.ImageChanges) == 0 {
		return nil
	}
	if begun, err := r.kept(ctx, r.build.Spec.Number); err == nil && len(begun.ImageChanges) == len(application.ImageChanges) {
		application.ImageChanges = begun.ImageChanges
		return nil
	}
	return application.FindFormer(ctx, r.cfg.As(r.build.Namespace, r.pipeline.Spec.ServiceAccountName))
}

// redeploy deploys what an earlier Build deployed.
func (r *run) redeploy(ctx context.Context) error {
	number := r.build.Spec.Redeploy
	earlier, err := r.api.Builds(r.build.Namespace).Get(ctx, BuildName(r.pipeline.Name, number), metav1.GetOptions{})
	if err != nil {
		return because("DeployFailed", fmt.Errorf("find build %d: %w", number, err))
	}
	application, err := r.kept(ctx, number)
	if err != nil {
		return because("DeployFailed", err)
	}
	r.build.Status.Commit, r.build.Status.Images = earlier.Status.Commit, earlier.Status.Images
	if err := r.phase(ctx, v1alpha1.BuildDeploying); err != nil {
		return err
	}
	r.log.printf("deploying build %d again", number)
	return r.deploy(ctx, application)
}

func (r *run) apply(ctx context.Context, application *app.Application) (*app.Result, error) {
	timeout := rollbackPatience
	if d := r.pipeline.Spec.Deploy; d != nil {
		timeout = time.Duration(d.TimeoutSeconds) * time.Second
	}
	display := progress.Plain(r.log)
	defer display.Close()
	return app.Deploy(ctx, r.cfg.As(r.build.Namespace, r.pipeline.Spec.ServiceAccountName), application, app.DeployOptions{Display: display, Timeout: timeout})
}

// lastGood is the number of the newest Build before this one that became ready, or 0.
func (r *run) lastGood(ctx context.Context) (int64, error) {
	list, err := r.api.Builds(r.build.Namespace).List(ctx, metav1.ListOptions{LabelSelector: v1alpha1.PipelineLabel + "=" + r.pipeline.Name})
	if err != nil {
		return 0, fmt.Errorf("find the last good build: %w", err)
	}
	var good int64
	for _, b := range list.Items {
		if b.Spec.Number < r.build.Spec.Number && b.Status.Phase == v1alpha1.BuildSucceeded && b.Status.Deployment != nil && b.Status.Deployment.Ready {
			good = max(good, b.Spec.Number)
		}
	}
	return good, nil
}

func deployedName(pipeline string, number int64) string {
	return BuildName(pipeline, number) + "-deployed"
}

// keep stores what is deployed, with the digests of its images, in a Secret that goes
// with the Build: it holds the application's secrets.
func (r *run) keep(ctx context.Context, application *app.Application) error {
	text, err := application.Encode()
	if err != nil {
		return err
	}
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	if _, err := z.Write(text); err != nil {
		return err
	}
	if err := z.Close(); err != nil {
		return err
	}
	secret := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{
			Name: deployedName(r.pipeline.Name, r.build.Spec.Number), Namespace: r.build.Namespace, Labels: map[string]string{v1alpha1.PipelineLabel: r.pipeline.Name},
			OwnerReferences: []metav1.OwnerReference{{APIVersion: v1alpha1.GroupVersion.String(), Kind: "Build", Name: r.build.Name, UID: r.build.UID}},
		},
		Type: deployedType, Data: map[string][]byte{deployedKey: packed.Bytes()},
	}
	secrets := r.kube.CoreV1().Secrets(r.build.Namespace)
	_, err = secrets.Create(ctx, secret, metav1.CreateOptions{FieldManager: User})
	if apierrors.IsAlreadyExists(err) {
		_, err = secrets.Update(ctx, secret, metav1.UpdateOptions{FieldManager: User})
	}
	if err != nil {
		return fmt.Errorf("keep what is deployed: %w", err)
	}
	return nil
}

// kept is what a Build deployed.
func (r *run) kept(ctx context.Context, number int64) (*app.Application, error) {
	secret, err := r.kube.CoreV1().Secrets(r.build.Namespace).Get(ctx, deployedName(r.pipeline.Name, number), metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, hint.Wrap(fmt.Errorf("build %d has deployed nothing that could be deployed again", number), "`gantry pipeline builds %s` lists those that have", r.pipeline.Name)
	}
	if err != nil {
		return nil, fmt.Errorf("read what build %d deployed: %w", number, err)
	}
	if secret.Type != deployedType {
		return nil, fmt.Errorf("read what build %d deployed: secret %s is not of type %s", number, secret.Name, deployedType)
	}
	z, err := gzip.NewReader(bytes.NewReader(secret.Data[deployedKey]))
	if err != nil {
		return nil, fmt.Errorf("read what build %d deployed: %w", number, err)
	}
	text, err := io.ReadAll(io.LimitReader(z, maxDeployed))
	if err != nil {
		return nil, fmt.Errorf("read what build %d deployed: %w", number, err)
	}
	return app.Decode(text)
}

// prune removes the oldest ended Builds beyond the Pipeline's limit, except those that
// a rollback would go to.
func (s *Service) prune(ctx context.Context, b *v1alpha1.Build) error {
	p := s.pipelineOf(b)
	if p == nil {
		return nil
	}
	list, err := s.api.Builds(b.Namespace).List(ctx, metav1.ListOptions{LabelSelector: v1alpha1.PipelineLabel + "=" + p.Name})
	if err != nil {
		return err
	}
	for _, old := range obsolete(list.Items, int(p.Spec.HistoryLimit)) {
		if err := s.api.Builds(b.Namespace).Delete(ctx, old.Name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			return err
		}
	}
	return nil
}

// obsolete are the Builds beyond the newest limit, except the newest good one.
func obsolete(builds []v1alpha1.Build, limit int) []v1alpha1.Build {
	ended := slices.DeleteFunc(slices.Clone(builds), func(b v1alpha1.Build) bool { return !b.Status.Phase.Ended() })
	slices.SortFunc(ended, func(x, y v1alpha1.Build) int { return cmp.Compare(y.Spec.Number, x.Spec.Number) })
	goodSeen := false
	var out []v1alpha1.Build
	for i, b := range ended {
		good := b.Status.Phase == v1alpha1.BuildSucceeded && b.Status.Deployment != nil && b.Status.Deployment.Ready
		if i >= limit && !(good && !goodSeen) {
			out = append(out, b)
		}
		goodSeen = goodSeen || good
	}
	return out
}

// forget removes what is on the disk for a Pipeline that is gone.
func (s *Service) forget(p *v1alpha1.Pipeline) {
	for _, dir := range []string{"git", "work"} {
		if err := os.RemoveAll(filepath.Join(s.cfg.Dir, dir, p.Namespace, p.Name)); err != nil {
			s.cfg.Log.Warn("cannot remove what a pipeline left", "pipeline", p.Namespace+"/"+p.Name, "err", err)
		}
	}
}
