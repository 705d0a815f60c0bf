package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/duration"
	"k8s.io/client-go/kubernetes"

	"github.com/gantryhq/gantry/api/v1alpha1"
	"github.com/gantryhq/gantry/internal/apiclient"
	"github.com/gantryhq/gantry/internal/hint"
	"github.com/gantryhq/gantry/services/pipeline"
)

// pipelines is what the commands around Pipelines work with.
type pipelines struct {
	api       *apiclient.Client
	kube      kubernetes.Interface
	namespace string // "" when none was given
}

func openPipelines(g *globals, namespace string) (*pipelines, error) {
	cfg, err := g.config()
	if err != nil {
		return nil, err
	}
	api, err := apiclient.New(cfg)
	if err != nil {
		return nil, err
	}
	kube, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return nil, err
	}
	return &pipelines{api: api, kube: kube, namespace: namespace}, nil
}

// find returns the Pipeline of a name: in the namespace that was given, else the only
// one anywhere.
func (p *pipelines) find(ctx context.Context, name string) (*v1alpha1.Pipeline, error) {
	if namespace, rest, ok := strings.Cut(name, "/"); ok {
		return p.get(ctx, namespace, rest)
	}
	if p.namespace != "" {
		return p.get(ctx, p.namespace, name)
	}
	list, err := p.api.Pipelines("").List(ctx, metav1.ListOptions{FieldSelector: "metadata.name=" + name})
	if err != nil {
		return nil, noPipelines(fmt.Errorf("find pipeline %s: %w", name, err))
	}
	switch len(list.Items) {
	case 0:
		return nil, hint.Wrap(fmt.Errorf("there is no pipeline %s", name), "`gantry pipeline list` lists them; `gantry pipeline create` makes one")
	case 1:
		return &list.Items[0], nil
	}
	return nil, hint.Wrap(fmt.Errorf("there are pipelines %s in several namespaces", name), "say which: -n %s", list.Items[0].Namespace)
}

// noPipelines explains an error about a list, which is there wherever its kind is.
func noPipelines(err error) error {
	if apierrors.IsNotFound(err) {
		return hint.Wrap(errors.New("this cluster has no pipelines"), "they run in `gantry serve`; other clusters do not have them yet")
	}
	return err
}

func (p *pipelines) get(ctx context.Context, namespace, name string) (*v1alpha1.Pipeline, error) {
	found, err := p.api.Pipelines(namespace).Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, hint.Wrap(fmt.Errorf("there is no pipeline %s in namespace %s", name, namespace), "`gantry pipeline list` lists them")
	}
	if err != nil {
		return nil, fmt.Errorf("find pipeline %s: %w", name, err)
	}
	return found, nil
}

func newPipelineCommand(g *globals) *cobra.Command {
	var namespace string
	c := &cobra.Command{
		Use:   "pipeline",
		Short: "Build, test and deploy what is in a Git repository, at every commit",
		Long: "A Pipeline builds, tests and deploys the branch of a Git repository. Every run is a Build\n" +
			"with a number. Both are kinds of the API: kubectl explain pipelines.gantry.dev.",
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.PersistentFlags().StringVarP(&namespace, "namespace", "n", "", "namespace of the pipeline")
	with := func(run func(ctx context.Context, p *pipelines, out io.Writer, args []string) error) func(*cobra.Command, []string) error {
		return func(c *cobra.Command, args []string) error {
			p, err := openPipelines(g, namespace)
			if err != nil {
				return err
			}
			ctx, stop := signal.NotifyContext(c.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			return run(ctx, p, c.OutOrStdout(), args)
		}
	}
	c.AddCommand(newPipelineCreate(with), newPipelineRun(with), newPipelineLogs(with), newPipelineList(with), newPipelineBuilds(with), newPipelineDelete(with))
	return c
}

// runner makes a command's RunE out of a function that needs the API.
type runner func(func(ctx context.Context, p *pipelines, out io.Writer, args []string) error) func(*cobra.Command, []string) error

func newPipelineCreate(with runner) *cobra.Command {
	var o createOptions
	c := &cobra.Command{
		Use:   "create NAME --repo URL",
		Short: "Make a pipeline, and a service account that may deploy to its namespace",
		Example: "  gantry pipeline create shop --repo https://git.example.com/acme/shop.git --poll 1m\n" +
			"  gantry pipeline create shop --repo https://github.com/acme/shop --webhook github --path deploy\n" +
			"  gantry pipeline create cart -n shop --repo https://github.com/acme/cart --image cart --set-image deployment/cart=cart",
		Args: exactly(1, "NAME"),
		RunE: with(func(ctx context.Context, p *pipelines, out io.Writer, args []string) error {
			return p.create(ctx, out, args[0], o)
		}),
	}
	f := c.Flags()
	f.StringVar(&o.repo, "repo", "", "URL of the Git repository")
	f.StringVar(&o.branch, "branch", "main", "branch to build")
	f.StringVar(&o.secret, "secret", "", "Secret of the namespace with username and password, or ssh-privatekey and known_hosts")
	f.StringVar(&o.path, "path", ".", "Compose file or folder of manifests to deploy; \"\" deploys nothing")
	f.StringArrayVar(&o.images, "image", nil, "NAME or NAME=FOLDER to build in addition (repeatable)")
	f.StringArrayVar(&o.setImages, "set-image", nil, "WORKLOAD[/CONTAINER]=IMAGE, such as deployment/cart=cart: give a workload that is there already what was built, instead of --path (repeatable)")
	f.DurationVar(&o.poll, "poll", 0, "ask the repository for commits this often, such as 1m")
	f.StringVar(&o.schedule, "schedule", "", "run at these times, as for cron: \"0 2 * * *\"")
	f.StringVar(&o.timeZone, "time-zone", "", "of the schedule (default UTC)")
	f.StringVar(&o.webhook, "webhook", "", "take webhooks of github, gitlab or gitea; prints the address and a new secret")
	f.StringVar(&o.testImage, "test-image", "", "image to test in: one that is built, or any")
	f.StringArrayVar(&o.testCommand, "test-command", nil, "argument of the test's command (repeatable)")
	f.DurationVar(&o.timeout, "deploy-timeout", 5*time.Minute, "how long the application may take to become ready")
	f.BoolVar(&o.noNetwork, "no-network", false, "build steps reach nothing, not even the outside")
	return c
}

// exactly wants so many arguments.
func exactly(n int, names string) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if len(args) == n {
			return nil
		}
		return usageError{fmt.Errorf("%s takes %s, got %d arguments", c.CommandPath(), names, len(args))}
	}
}

func newPipelineRun(with runner) *cobra.Command {
	var commit string
	var detach bool
	c := &cobra.Command{
		Use:   "run NAME",
		Short: "Start a build now, and follow it",
		Args:  exactly(1, "NAME"),
		RunE: with(func(ctx context.Context, p *pipelines, out io.Writer, args []string) error {
			owner, err := p.find(ctx, args[0])
			if err != nil {
				return err
			}
			b, err := pipeline.NewBuild(ctx, p.api, owner, v1alpha1.BuildSpec{Trigger: "Manual", Commit: commit})
			if err != nil {
				return err
			}
			if detach {
				fmt.Fprintln(out, b.Name)
				return nil
			}
			return p.follow(ctx, out, b)
		}),
	}
	c.Flags().StringVar(&commit, "commit", "", "build this commit (40 digits) instead of the branch's newest")
	c.Flags().BoolVarP(&detach, "detach", "d", false, "print the name of the build and return")
	return c
}

func newPipelineLogs(with runner) *cobra.Command {
	var follow bool
	c := &cobra.Command{
		Use:   "logs NAME [NUMBER]",
		Short: "Print the log of a build, by default the newest",
		Args:  cobra.RangeArgs(1, 2),
		RunE: with(func(ctx context.Context, p *pipelines, out io.Writer, args []string) error {
			owner, err := p.find(ctx, args[0])
			if err != nil {
				return err
			}
			number, err := p.number(ctx, owner, args[1:])
			if err != nil {
				return err
			}
			name := pipeline.BuildName(owner.Name, number)
			if follow {
				_, err = p.followLog(ctx, out, owner.Namespace, name)
			} else {
				_, err = p.copyLog(ctx, out, owner.Namespace, name, 0, false)
			}
			return err
		}),
	}
	c.Flags().BoolVarP(&follow, "follow", "f", false, "go on until the build ends")
	return c
}

func newPipelineList(with runner) *cobra.Command {
	var output string
	c := &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List pipelines",
		Args:    exactly(0, "no argument"),
		RunE: with(func(ctx context.Context, p *pipelines, out io.Writer, _ []string) error {
			list, err := p.api.Pipelines(p.namespace).List(ctx, metav1.ListOptions{})
			if err != nil {
				return noPipelines(fmt.Errorf("list pipelines: %w", err))
			}
			if output == "json" {
				return writeJSON(out, list.Items)
			}
			w := tabwriter.NewWriter(out, 0, 0, 3, ' ', 0)
			fmt.Fprintln(w, "NAMESPACE\tNAME\tREPOSITORY\tBRANCH\tLAST\tPHASE\tDEPLOYED\tREADY")
			for _, i := range list.Items {
				last, phase := "-", v1alpha1.BuildPhase("-")
				if b := i.Status.LastBuild; b != nil {
					last, phase = fmt.Sprint(b.Number), b.Phase
				}
				deployed := "-"
				if i.Status.DeployedBuild > 0 {
					deployed = fmt.Sprint(i.Status.DeployedBuild)
				}
				ready := "-"
				for _, c := range i.Status.Conditions {
					if c.Type == "Ready" {
						ready = c.Reason
					}
				}
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", i.Namespace, i.Name, i.Spec.Source.URL, i.Spec.Source.Branch, last, phase, deployed, ready)
			}
			return w.Flush()
		}),
	}
	c.Flags().StringVarP(&output, "output", "o", "", "json instead of a table")
	return c
}

func newPipelineBuilds(with runner) *cobra.Command {
	var output string
	c := &cobra.Command{
		Use:   "builds NAME",
		Short: "List the builds of a pipeline, the newest first",
		Args:  exactly(1, "NAME"),
		RunE: with(func(ctx context.Context, p *pipelines, out io.Writer, args []string) error {
			owner, err := p.find(ctx, args[0])
			if err != nil {
				return err
			}
			builds, err := p.builds(ctx, owner)
			if err != nil {
				return err
			}
			if output == "json" {
				return writeJSON(out, builds)
			}
			return writeBuilds(out, owner, builds)
		}),
	}
	c.Flags().StringVarP(&output, "output", "o", "", "json instead of a table")
	return c
}

func writeBuilds(out io.Writer, owner *v1alpha1.Pipeline, builds []v1alpha1.Build) error {
	w := tabwriter.NewWriter(out, 0, 0, 3, ' ', 0)
	fmt.Fprintln(w, "NUMBER\tPHASE\tCOMMIT\tAUTHOR\tTRIGGER\tTOOK\tAGE\tIMAGES\tDEPLOYED")
	for _, b := range builds {
		commit, author := "-", "-"
		if c := b.Status.Commit; c != nil {
			commit = c.Short
			author, _, _ = strings.Cut(c.Author, " <")
		}
		phase := string(b.Status.Phase)
		if phase == "" {
			phase = string(v1alpha1.BuildPending)
		}
		if b.Status.Reason != "" {
			phase += " (" + b.Status.Reason + ")"
		}
		signed := 0
		for _, i := range b.Status.Images {
			if i.Signed {
				signed++
			}
		}
		deployed := ""
		switch d := b.Status.Deployment; {
		case d != nil && d.RolledBackTo > 0:
			deployed = fmt.Sprintf("rolled back to %d", d.RolledBackTo)
		case owner.Status.DeployedBuild == b.Spec.Number:
			deployed = "now"
		case b.Spec.Redeploy > 0:
			deployed = fmt.Sprintf("build %d again", b.Spec.Redeploy)
		}
		fmt.Fprintf(w, "%d\t%s\t%s\t%s\t%s\t%d s\t%s\t%d (%d signed)\t%s\n", b.Spec.Number, phase, commit, author, b.Spec.Trigger,
			b.Status.DurationSeconds, duration.HumanDuration(time.Since(b.CreationTimestamp.Time)), len(b.Status.Images), signed, deployed)
	}
	return w.Flush()
}

func newPipelineDelete(with runner) *cobra.Command {
	return &cobra.Command{
		Use:   "delete NAME",
		Short: "Delete a pipeline with its builds and logs; what it deployed runs on",
		Args:  exactly(1, "NAME"),
		RunE: with(func(ctx context.Context, p *pipelines, out io.Writer, args []string) error {
			owner, err := p.find(ctx, args[0])
			if err != nil {
				return err
			}
			if err := p.api.Pipelines(owner.Namespace).Delete(ctx, owner.Name, metav1.DeleteOptions{}); err != nil {
				return fmt.Errorf("delete pipeline %s: %w", owner.Name, err)
			}
			fmt.Fprintf(out, "pipeline %s/%s deleted\n", owner.Namespace, owner.Name)
			return nil
		}),
	}
}

// createOptions are the flags of `gantry pipeline create`.
type createOptions struct {
	repo, branch, secret, path  string
	images, setImages           []string
	poll, timeout               time.Duration
	schedule, timeZone, webhook string
	testImage                   string
	testCommand                 []string
	noNetwork                   bool
}

var webhookProviders = map[string]string{"github": "GitHub", "gitlab": "GitLab", "gitea": "Gitea"}

func (p *pipelines) create(ctx context.Context, out io.Writer, name string, o createOptions) error {
	if o.repo == "" {
		return usageError{hint.Wrap(errors.New("gantry pipeline create needs the repository"), "gantry pipeline create %s --repo URL", name)}
	}
	namespace := p.namespace
	if namespace == "" {
		namespace = name
	}
	spec := v1alpha1.PipelineSpec{
		Source:             v1alpha1.PipelineSource{URL: o.repo, Branch: o.branch, SecretName: o.secret},
		Triggers:           v1alpha1.PipelineTriggers{PollSeconds: int32(o.poll.Seconds()), Schedule: o.schedule, TimeZone: o.timeZone},
		ServiceAccountName: name + "-pipeline",
	}
	if o.noNetwork {
		spec.Network = "None"
	}
	if o.path != "" {
		spec.Deploy = &v1alpha1.PipelineDeploy{Path: o.path, TimeoutSeconds: int32(o.timeout.Seconds())}
	}
	if len(o.setImages) > 0 {
		spec.Deploy = &v1alpha1.PipelineDeploy{TimeoutSeconds: int32(o.timeout.Seconds())}
	}
	for _, text := range o.setImages {
		s, err := parseSetImage(text)
		if err != nil {
			return err
		}
		spec.Deploy.SetImages = append(spec.Deploy.SetImages, s)
	}
	for _, i := range o.images {
		image, folder, _ := strings.Cut(i, "=")
		spec.Images = append(spec.Images, v1alpha1.PipelineImage{Name: image, Context: folder})
	}
	if o.testImage != "" {
		spec.Test = &v1alpha1.PipelineTest{Image: o.testImage, Command: o.testCommand}
	}
	if o.webhook != "" {
		provider, ok := webhookProviders[strings.ToLower(o.webhook)]
		if !ok {
			return usageError{fmt.Errorf("--webhook %q is none of github, gitlab, gitea", o.webhook)}
		}
		spec.Triggers.Webhook = &v1alpha1.PipelineWebhook{Provider: provider, SecretName: name + "-webhook"}
	}
	created := &v1alpha1.Pipeline{
		TypeMeta:   metav1.TypeMeta{APIVersion: v1alpha1.GroupVersion.String(), Kind: "Pipeline"},
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: namespace}, Spec: spec,
	}
	if err := p.prepare(ctx, namespace, spec); err != nil {
		return err
	}
	if _, err := p.api.Pipelines(namespace).Create(ctx, created, metav1.CreateOptions{}); err != nil {
		return noPipelines(fmt.Errorf("make pipeline %s: %w", name, err))
	}
	fmt.Fprintf(out, "pipeline %s/%s created\n", namespace, name)
	if spec.Triggers.Webhook != nil {
		return p.webhookSecret(ctx, out, created)
	}
	return nil
}

// parseSetImage reads WORKLOAD[/CONTAINER]=IMAGE, where WORKLOAD is as kubectl has it.
func parseSetImage(text string) (s v1alpha1.PipelineSetImage, err error) {
	kinds := map[string]string{"deployment": "Deployment", "deploy": "Deployment", "statefulset": "StatefulSet", "sts": "StatefulSet", "daemonset": "DaemonSet", "ds": "DaemonSet"}
	workload, image, ok := strings.Cut(text, "=")
	parts := strings.Split(workload, "/")
	kind := kinds[strings.TrimSuffix(strings.ToLower(parts[0]), "s")]
	if kind == "" {
		kind = kinds[strings.ToLower(parts[0])] // ds, sts
	}
	if !ok || image == "" || len(parts) < 2 || len(parts) > 3 || kind == "" {
		return s, usageError{fmt.Errorf("--set-image %q: want deployment/NAME=IMAGE, or deployment/NAME/CONTAINER=IMAGE; also statefulset and daemonset", text)}
	}
	s.Kind, s.Name, s.Image = kind, parts[1], image
	if len(parts) == 3 {
		s.Container = parts[2]
	}
	return s, nil
}

// prepare makes the namespace and the account with the right to deploy there.
func (p *pipelines) prepare(ctx context.Context, namespace string, spec v1alpha1.PipelineSpec) error {
	// Whoever may push to the branch may run pods there, but none that could take over the machine.
	_, err := p.kube.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{
		Name: namespace, Labels: map[string]string{"pod-security.kubernetes.io/enforce": "baseline"},
	}}, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("make namespace %s: %w", namespace, err)
	}
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: spec.ServiceAccountName, Namespace: namespace}}
	if _, err := p.kube.CoreV1().ServiceAccounts(namespace).Create(ctx, account, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("make service account %s: %w", account.Name, err)
	}
	binding := &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: spec.ServiceAccountName, Namespace: namespace},
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: namespace, Name: spec.ServiceAccountName}},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "admin"},
	}
	if _, err := p.kube.RbacV1().RoleBindings(namespace).Create(ctx, binding, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("let service account %s deploy: %w", account.Name, err)
	}
	return nil
}

// number is the one that was given, or the newest Build's.
func (p *pipelines) number(ctx context.Context, owner *v1alpha1.Pipeline, args []string) (int64, error) {
	if len(args) > 0 {
		return buildNumber(owner.Name, args[0])
	}
	builds, err := p.builds(ctx, owner)
	if err != nil {
		return 0, err
	}
	if len(builds) == 0 {
		return 0, hint.Wrap(fmt.Errorf("pipeline %s has no builds yet", owner.Name), "start one: gantry pipeline run %s", owner.Name)
	}
	return builds[0].Spec.Number, nil
}
