package app

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/compose-spec/compose-go/v2/cli"
	"github.com/compose-spec/compose-go/v2/loader"
	"github.com/compose-spec/compose-go/v2/tree"
	"github.com/compose-spec/compose-go/v2/types"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/gantryhq/gantry/internal/hint"
)

// compose translates one Compose project. Its methods append to app.
type compose struct {
	app     *Application
	project *types.Project
	file    string            // for messages
	names   map[string]string // Compose service name to Kubernetes name
	shared  map[string]int    // services that mount a named volume read-write
	unset   []string          // variables without a value
}

func loadCompose(ctx context.Context, app *Application, file string, opt Options) error {
	c := &compose{app: app, file: displayPath(file)}
	return c.nameUnset(c.load(ctx, file, opt))
}

func (c *compose) load(ctx context.Context, file string, opt Options) error {
	app := c.app
	project, err := c.read(ctx, file, opt)
	if err != nil {
		return explainCompose(c.file, file, err)
	}
	c.project = project
	app.Name = project.Name
	app.Namespace = dnsLabel(project.Name)
	if len(project.Services) == 0 {
		return hint.Wrap(fmt.Errorf("%s: no service to run", c.file), "services with profiles need --profile NAME")
	}
	if err := c.nameServices(); err != nil {
		return err
	}
	if err := c.translate(); err != nil {
		return err
	}
	return app.checkImages()
}

// explainCompose puts the library's words into a newcomer's.
func explainCompose(shown, file string, err error) error {
	text := strings.TrimPrefix(err.Error(), "validating "+file+": ")
	text = strings.TrimSuffix(text, ": invalid compose project")
	text = strings.NewReplacer(" at <unknown position>", "", "<unknown position>: ", "").Replace(text) // as it says of the first line
	if field, ok := strings.CutSuffix(text, " false schema"); ok {
		return hint.Wrap(fmt.Errorf("%s: %s is not a field of Compose", shown, field), "is it misspelt? Fields of your own begin with x-")
	}
	if strings.HasPrefix(text, "service ") && strings.HasSuffix(text, "has neither an image nor a build context specified") {
		return hint.Wrap(fmt.Errorf("%s: %s", shown, text), "name an image, or build: a folder with a Dockerfile")
	}
	if m := yamlError.FindStringSubmatch(text); m != nil {
		return fmt.Errorf("%s:%s: %w", shown, m[2], rephrased{"yaml: " + m[1] + ": " + m[3], err})
	}
	return fmt.Errorf("%s: %w", lineOf(shown, file, text), rephrased{text, err})
}

// yamlError is how the YAML library says what it was doing, from which line and column on, and what is wrong.
var yamlError = regexp.MustCompile(`go-yaml load error in \w+ \((.+)\) at L(\d+)\.C\d+\S*: (.+)$`)

// lineOf adds the line to the file's name when the message names no field and
// its last word stands on one line only, as in "invalid containerPort: eighty".
func lineOf(shown, file, message string) string {
	words := strings.Fields(message)
	content, err := os.ReadFile(file)
	if err != nil || len(words) == 0 || strings.Contains(message, "services.") || strings.Contains(message, "line ") {
		return shown
	}
	last := strings.Trim(words[len(words)-1], `"'`)
	found, number := 0, 0
	for line := range strings.Lines(string(content)) {
		number++
		if !strings.Contains(line, last) {
			continue
		}
		if found != 0 {
			return shown
		}
		found = number
	}
	if found == 0 {
		return shown
	}
	return fmt.Sprintf("%s:%d", shown, found)
}

// rephrased says an error in other words.
type rephrased struct {
	text string
	error
}

func (r rephrased) Error() string { return r.text }
func (r rephrased) Unwrap() error { return r.error }

func (c *compose) read(ctx context.Context, file string, opt Options) (*types.Project, error) {
	files := []string{file}
	if len(opt.Files) == 0 {
		files = append(files, overrides(file)...)
	}
	files = append(files, opt.Files...)
	env := []cli.ProjectOptionsFn{
		cli.WithWorkingDirectory(filepath.Dir(file)),
		cli.WithEnv(opt.Env),
		cli.WithEnvFiles(opt.EnvFiles...),
		cli.WithDotEnv,
		cli.WithProfiles(opt.Profiles),
		cli.WithLoadOptions(loader.WithSupportedAttributes(supportedAttributes(), c.unsupported), c.unsetVariables),
	}
	if opt.Name != "" {
		env = append(env, cli.WithName(loader.NormalizeProjectName(opt.Name)))
	}
	options, err := cli.NewProjectOptions(files, env...)
	if err != nil {
		return nil, err
	}
	return options.LoadProject(ctx)
}

// overrides finds compose.override.yaml, which Compose always lays over
// compose.yaml.
func overrides(file string) []string {
	base := strings.TrimSuffix(filepath.Base(file), filepath.Ext(file))
	if base != "compose" && base != "docker-compose" {
		return nil
	}
	for _, ext := range []string{".yaml", ".yml"} {
		matches, _ := filepath.Glob(filepath.Join(filepath.Dir(file), base+".override"+ext))
		if len(matches) > 0 {
			return matches
		}
	}
	return nil
}

// nameServices gives each service the DNS name under which others find it.
func (c *compose) nameServices() error {
	c.names = map[string]string{}
	taken := map[string]string{}
	for _, name := range c.project.ServiceNames() {
		k := dnsLabel(name)
		if other, ok := taken[k]; ok {
			return hint.Wrap(fmt.Errorf("%s: services.%s and services.%s are both %q in DNS", c.file, other, name, k), "rename one of them")
		}
		taken[k], c.names[name] = name, k
		if k != name {
			c.app.warnf("%s: services.%s: a DNS name cannot hold this; other services reach it as %q", c.file, name, k)
		}
	}
	return nil
}

func (c *compose) translate() error {
	c.countWriters()
	c.noteNetworks()
	levels, err := c.waves()
	if err != nil {
		return err
	}
	if err := c.add(0, "", &corev1.Namespace{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Namespace"},
		ObjectMeta: metav1.ObjectMeta{Name: c.app.Namespace},
	}); err != nil {
		return err
	}
	for _, step := range []func() error{c.secrets, c.configs, c.claims} {
		if err := step(); err != nil {
			return err
		}
	}
	for _, name := range c.project.ServiceNames() {
		if err := c.service(c.project.Services[name], levels[name]); err != nil {
			return err
		}
	}
	if err := c.routes(); err != nil {
		return err
	}
	slices.SortStableFunc(c.app.Objects, func(a, b *Object) int { return a.Wave - b.Wave })
	return nil
}

// add appends an object with the labels all objects of the project carry.
// Field is where in the Compose file it comes from, or "".
func (c *compose) add(wave int, field string, typed runtime.Object) error {
	origin := c.file
	if field != "" {
		origin += ": " + field
	}
	o, err := toObject(typed, origin)
	if err != nil {
		return err
	}
	o.Wave = wave
	labels := o.GetLabels()
	if labels == nil {
		labels = map[string]string{}
	}
	labels[labelPartOf], labels[labelManagedBy] = c.app.Namespace, managedBy
	o.SetLabels(labels)
	if o.GetKind() != "Namespace" {
		o.SetNamespace(c.app.Namespace)
	}
	if field != "" {
		annotations := o.GetAnnotations()
		if annotations == nil {
			annotations = map[string]string{}
		}
		annotations[annotationOrigin] = filepath.Base(c.file) + " " + field
		o.SetAnnotations(annotations)
	}
	c.app.Objects = append(c.app.Objects, o)
	return nil
}

func (c *compose) last() *Object { return c.app.Objects[len(c.app.Objects)-1] }

// waves orders services by depends_on: a service is applied when the services of
// all lower waves are in the state that is wanted of them.
func (c *compose) waves() (map[string]int, error) {
	levels := map[string]int{}
	var level func(name string, path []string) (int, error)
	level = func(name string, path []string) (int, error) {
		if slices.Contains(path, name) {
			return 0, fmt.Errorf("%s: services.%s.depends_on: depends on itself: %s", c.file, name, strings.Join(append(path, name), " → "))
		}
		if l, ok := levels[name]; ok {
			return l, nil
		}
		l := 1
		for dep := range c.project.Services[name].DependsOn {
			if _, ok := c.project.Services[dep]; !ok {
				continue // not required, and disabled by its profile
			}
			below, err := level(dep, append(path, name))
			if err != nil {
				return 0, err
			}
			l = max(l, below+1)
		}
		levels[name] = l
		return l, nil
	}
	for _, name := range c.project.ServiceNames() {
		if _, err := level(name, nil); err != nil {
			return nil, err
		}
	}
	return levels, nil
}

// awaited is the strongest condition that any service wants of this one.
func (c *compose) awaited(name string) await {
	a := awaitNothing
	for _, other := range c.project.Services {
		dep, ok := other.DependsOn[name]
		if !ok {
			continue
		}
		switch dep.Condition {
		case types.ServiceConditionCompletedSuccessfully:
			a = max(a, awaitComplete)
		case types.ServiceConditionHealthy:
			a = max(a, awaitReady)
		default:
			a = max(a, awaitStarted)
		}
	}
	return a
}

func (c *compose) noteNetworks() {
	var own []string
	for _, name := range c.project.NetworkNames() {
		if name != "default" {
			own = append(own, name)
		}
	}
	if len(own) > 0 {
		c.app.warnf("%s: networks (%s): all services of a project reach one another; separate them with a NetworkPolicy",
			c.file, strings.Join(own, ", "))
	}
}

// unsupported reports every attribute that is valid Compose and has no effect.
func (c *compose) unsupported(found []loader.UnsupportedAttribute) {
	var last tree.Path
	for _, a := range found {
		if last != "" && strings.HasPrefix(string(a.Path), string(last)+".") {
			continue // its parent is reported already
		}
		last = a.Path
		c.app.warnf("%s: %s has no effect", c.file, strings.ReplaceAll(string(a.Path), ".[", "["))
	}
}

// dnsLabel makes a name that DNS and Kubernetes accept.
func dnsLabel(name string) string {
	label := strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9':
			return r
		case r >= 'A' && r <= 'Z':
			return r + 'a' - 'A'
		}
		return '-'
	}, name)
	label = strings.Trim(label, "-")
	if label == "" || label[0] >= '0' && label[0] <= '9' {
		label = "x" + label
	}
	if len(label) > 63 {
		label = strings.Trim(label[:63], "-")
	}
	return label
}
