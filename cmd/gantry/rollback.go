package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/gantryhq/gantry/api/v1alpha1"
	"github.com/gantryhq/gantry/internal/hint"
	"github.com/gantryhq/gantry/internal/platform"
	"github.com/gantryhq/gantry/services/pipeline"
)

func newRollbackCommand(g *globals) *cobra.Command {
	var namespace, to string
	c := &cobra.Command{
		Use:   "rollback APP [--to BUILD]",
		Short: "Deploy an earlier build of a pipeline again, without building",
		Long: "Deploys what an earlier build deployed, with the same images by digest. APP is the name of\n" +
			"the pipeline. Without --to it is the newest good build before the one that runs.",
		Example: "  gantry rollback shop --to 41",
		Args:    exactly(1, "APP"),
		RunE: func(c *cobra.Command, args []string) error {
			p, err := openPipelines(g, namespace)
			if err != nil {
				return err
			}
			ctx, stop := signal.NotifyContext(c.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			return p.rollback(ctx, c.OutOrStdout(), args[0], to)
		},
	}
	c.Flags().StringVarP(&namespace, "namespace", "n", "", "namespace of the pipeline")
	c.Flags().StringVar(&to, "to", "", "number of the build, or its name")
	return c
}

func (p *pipelines) rollback(ctx context.Context, out io.Writer, name, to string) error {
	owner, err := p.find(ctx, name)
	if err != nil {
		return err
	}
	builds, err := p.builds(ctx, owner)
	if err != nil {
		return err
	}
	number, err := rollbackTarget(owner, builds, to)
	if err != nil {
		return err
	}
	b, err := pipeline.NewBuild(ctx, p.api, owner, v1alpha1.BuildSpec{Trigger: "Rollback", Redeploy: number})
	if err != nil {
		return err
	}
	return p.follow(ctx, out, b)
}

// rollbackTarget is the number of the Build to go back to. builds are the newest first.
func rollbackTarget(owner *v1alpha1.Pipeline, builds []v1alpha1.Build, to string) (int64, error) {
	if to == "" {
		for _, b := range builds {
			if b.Spec.Number < owner.Status.DeployedBuild && b.Spec.Redeploy == 0 && b.Status.Deployment != nil && b.Status.Deployment.Ready {
				return b.Spec.Number, nil
			}
		}
		return 0, hint.Wrap(fmt.Errorf("there is no good build of %s before the one that runs", owner.Name), "`gantry pipeline builds %s` lists them", owner.Name)
	}
	number, err := buildNumber(owner.Name, to)
	if err != nil {
		return 0, err
	}
	i := slices.IndexFunc(builds, func(b v1alpha1.Build) bool { return b.Spec.Number == number })
	if i < 0 {
		return 0, hint.Wrap(fmt.Errorf("pipeline %s has no build %d", owner.Name, number), "`gantry pipeline builds %s` lists them", owner.Name)
	}
	if builds[i].Status.Deployment == nil {
		return 0, hint.Wrap(fmt.Errorf("build %d of %s has deployed nothing", number, owner.Name), "`gantry pipeline builds %s` lists those that have", owner.Name)
	}
	return number, nil
}

// buildNumber reads "12" or "shop-12".
func buildNumber(pipelineName, text string) (int64, error) {
	number, err := strconv.ParseInt(strings.TrimPrefix(text, pipelineName+"-"), 10, 64)
	if err != nil || number < 1 {
		return 0, usageError{fmt.Errorf("%q is not the number of a build", text)}
	}
	return number, nil
}

// builds are those of a Pipeline, the newest first.
func (p *pipelines) builds(ctx context.Context, owner *v1alpha1.Pipeline) ([]v1alpha1.Build, error) {
	list, err := p.api.Builds(owner.Namespace).List(ctx, metav1.ListOptions{LabelSelector: v1alpha1.PipelineLabel + "=" + owner.Name})
	if err != nil {
		return nil, fmt.Errorf("list the builds of %s: %w", owner.Name, err)
	}
	slices.SortFunc(list.Items, func(x, y v1alpha1.Build) int { return cmp.Compare(y.Spec.Number, x.Spec.Number) })
	return list.Items, nil
}

// followPoll is how often a Build is asked for when there is nothing to read.
const followPoll = 200 * time.Millisecond

// follow prints the log of a Build until it ends. An interrupted reader leaves the
// Build alone.
func (p *pipelines) follow(ctx context.Context, out io.Writer, b *v1alpha1.Build) error {
	fmt.Fprintf(out, "build %d of %s\n", b.Spec.Number, b.Spec.Pipeline)
	ended, err := p.followLog(ctx, out, b.Namespace, b.Name)
	if ctx.Err() != nil {
		return hint.Wrap(errors.New("no longer following: the build goes on"), "gantry pipeline logs -f %s %d", b.Spec.Pipeline, b.Spec.Number)
	}
	if err != nil {
		return err
	}
	return outcome(out, ended)
}

// followLog prints the log of a Build until it ends, and returns the Build.
func (p *pipelines) followLog(ctx context.Context, out io.Writer, namespace, name string) (*v1alpha1.Build, error) {
	var offset int64
	for {
		now, err := p.api.Builds(namespace).Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return nil, fmt.Errorf("read build %s: %w", name, err)
		}
		ended := now.Status.Phase.Ended() // asked before: what it said last is read below
		n, err := p.copyLog(ctx, out, namespace, name, offset, !ended)
		offset += n
		if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsServiceUnavailable(err) {
			return nil, fmt.Errorf("read the log of %s: %w", name, err)
		}
		if ended {
			return now, nil
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(followPoll):
		}
	}
}

// outcome is how a Build ended, as an error when not well.
func outcome(out io.Writer, b *v1alpha1.Build) error {
	if b.Status.Phase == v1alpha1.BuildSucceeded {
		if d := b.Status.Deployment; d != nil {
			for _, url := range d.URLs {
				fmt.Fprintf(out, "  %s\n", url)
			}
		}
		return nil
	}
	message, advice, _ := strings.Cut(b.Status.Message, "\nhint: ")
	err := fmt.Errorf("build %d of %s: %s: %s", b.Spec.Number, b.Spec.Pipeline, b.Status.Reason, message)
	if advice == "" {
		return err
	}
	return hint.Wrap(err, "%s", advice)
}

// copyLog prints the log of a Build from an offset on, and returns how many bytes that were.
func (p *pipelines) copyLog(ctx context.Context, out io.Writer, namespace, build string, offset int64, follow bool) (int64, error) {
	request := p.kube.CoreV1().RESTClient().Get().AbsPath(pipeline.LogPath(namespace, build)).Param("offset", strconv.FormatInt(offset, 10))
	if follow {
		request = request.Param("follow", "true")
	}
	stream, err := request.Stream(ctx)
	if err != nil {
		return 0, err
	}
	defer stream.Close()
	return io.Copy(out, stream)
}

// webhookSecret makes a secret for a Pipeline's webhook and says what to enter at
// the repository's server.
func (p *pipelines) webhookSecret(ctx context.Context, out io.Writer, owner *v1alpha1.Pipeline) error {
	name := owner.Spec.Triggers.Webhook.SecretName
	random := make([]byte, 24)
	_, _ = rand.Read(random) // never fails
	text := hex.EncodeToString(random)
	_, err := p.kube.CoreV1().Secrets(owner.Namespace).Create(ctx, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: owner.Namespace}, Data: map[string][]byte{"secret": []byte(text)},
	}, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		fmt.Fprintf(out, "the webhook's secret is the one in secret %s/%s\n", owner.Namespace, name)
		err, text = nil, ""
	}
	if err != nil {
		return fmt.Errorf("make secret %s: %w", name, err)
	}
	host := "HOST"
	if info, err := platform.Read(ctx, p.kube); err == nil && info.Gateway != "" {
		host = info.Gateway
	}
	fmt.Fprintf(out, "webhook address: http://%s%s (or https, at any name of the gateway that no route claims)\n", host, pipeline.HookPath(owner.Namespace, owner.Name))
	if text != "" {
		fmt.Fprintf(out, "webhook secret:  %s\n", text)
	}
	return nil
}
