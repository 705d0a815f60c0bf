// Package dockerfile says what is wrong with a Dockerfile, or with the commands that
// an image's history tells.
//
// What BuildKit's own linter checks, and whether it builds at all, is BuildKit's own
// answer. Beyond that these rules are about safety: where what goes into an image
// comes from, and as whom it runs. Nothing is executed and nothing is fetched.
// services/scan imports this package.
package dockerfile

import (
	"bytes"
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/distribution/reference"
	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/client/llb/sourceresolver"
	"github.com/moby/buildkit/frontend/dockerfile/dockerfile2llb"
	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"

	"github.com/gantryhq/gantry/services/scan/osvdb"
	"github.com/gantryhq/gantry/services/scan/report"
)

// Lint returns the faults of a Dockerfile. name is how faults call it.
func Lint(ctx context.Context, name string, text []byte) ([]report.Fault, error) {
	faults, err := buildkit(ctx, name, text)
	if err != nil {
		return nil, fmt.Errorf("check %s: %w", name, err)
	}
	parsed, err := parser.Parse(bytes.NewReader(text))
	if err != nil {
		return faults, nil // BuildKit's own answer has said so
	}
	stages, args, err := instructions.Parse(parsed.AST, nil)
	if err != nil || len(stages) == 0 {
		return faults, nil
	}
	l := &linter{path: name, args: args}
	for i := range stages {
		l.base(stages, i)
		for _, c := range stages[i].Commands {
			l.command(c)
		}
	}
	l.last(stages)
	return append(faults, l.faults...), nil
}

// buildkit asks BuildKit's linter. It wants to know the base images' configuration,
// for which it would ask registries: it is told that they are empty.
func buildkit(ctx context.Context, name string, text []byte) ([]report.Fault, error) {
	source := llb.NewSourceMap(nil, name, "Dockerfile", text)
	source.Definition = &llb.Definition{}
	results, err := dockerfile2llb.DockerfileLint(ctx, text, dockerfile2llb.ConvertOpt{MetaResolver: noBase{}, SourceMap: source})
	if err != nil {
		return nil, err
	}
	var faults []report.Fault
	for _, w := range results.Warnings {
		severity := osvdb.Low
		if w.RuleName == "SecretsUsedInArgOrEnv" {
			severity = osvdb.High
		}
		faults = append(faults, report.Fault{Rule: w.RuleName, Severity: severity, Message: w.Detail, Fix: w.Description, Path: name, Line: line(w.Location), URL: w.URL})
	}
	if e := results.Error; e != nil {
		faults = append(faults, report.Fault{Rule: "does-not-build", Severity: osvdb.High, Message: e.Message, Path: name, Line: line(&e.Location)})
	}
	return faults, nil
}

func line(at *pb.Location) int {
	if at == nil || len(at.Ranges) == 0 {
		return 0
	}
	return int(at.Ranges[0].Start.Line)
}

type noBase struct{}

func (noBase) ResolveImageConfig(_ context.Context, ref string, _ sourceresolver.Opt) (string, digest.Digest, []byte, error) {
	return ref, "", []byte("{}"), nil
}

// linter has the rules that are ours.
type linter struct {
	path   string
	args   []instructions.ArgCommand // before the first FROM
	faults []report.Fault
}

func (l *linter) add(rule string, s osvdb.Severity, at []parser.Range, fix, format string, args ...any) {
	f := report.Fault{Rule: rule, Severity: s, Message: fmt.Sprintf(format, args...), Fix: fix, Path: l.path}
	if len(at) > 0 {
		f.Line = at[0].Start.Line
	}
	l.faults = append(l.faults, f)
}

// base looks at what a stage starts from: an earlier stage, or an image that should
// be named by digest, or by a tag at least.
func (l *linter) base(stages []instructions.Stage, i int) {
	from := stages[i].BaseName
	earlier := slices.ContainsFunc(stages[:i], func(s instructions.Stage) bool { return strings.EqualFold(s.Name, from) })
	if earlier || from == "scratch" || strings.Contains(from, "$") {
		return
	}
	if fault := Unpinned(from); fault != nil {
		l.add(fault.Rule, fault.Severity, stages[i].Location, fault.Fix, "%s", fault.Message)
	}
}

// Unpinned is the fault of a base image whose name may mean another one tomorrow.
func Unpinned(from string) *report.Fault {
	named, err := reference.ParseNormalizedNamed(from)
	if err != nil {
		return nil // BuildKit's own answer has said so
	}
	if _, ok := named.(reference.Digested); ok {
		return nil
	}
	f := &report.Fault{Rule: "unpinned-base", Severity: osvdb.Low, Fix: "name it by digest: " + reference.FamiliarName(named) + ":TAG@sha256:..."}
	tagged, ok := named.(reference.Tagged)
	switch {
	case !ok:
		f.Severity, f.Message = osvdb.Medium, fmt.Sprintf("the base image %s has no tag: it is whatever is the latest on the day of the build", from)
	case tagged.Tag() == "latest":
		f.Severity, f.Message = osvdb.Medium, fmt.Sprintf("the base image %s is whatever is the latest on the day of the build", from)
	default:
		f.Message = fmt.Sprintf("the base image %s can change under its tag", from)
	}
	return f
}

func (l *linter) command(c instructions.Command) {
	switch c := c.(type) {
	case *instructions.AddCommand:
		for _, source := range c.SourcePaths {
			if remote(source) && c.Checksum == "" {
				l.add("add-from-url", osvdb.Medium, c.Location(), "give ADD the --checksum that the file must have", "ADD %s takes whatever the server sends", withoutUser(source))
			}
		}
	case *instructions.RunCommand:
		text := strings.Join(c.CmdLine, " ")
		for _, f := range c.Files {
			text += "\n" + f.Data
		}
		for _, f := range Shell(text) {
			l.add(f.Rule, f.Severity, c.Location(), f.Fix, "%s", f.Message)
		}
	}
}

func remote(source string) bool {
	return strings.HasPrefix(source, "http://") || strings.HasPrefix(source, "https://")
}

// withoutUser drops a password from a URL.
func withoutUser(url string) string {
	return regexp.MustCompile(`://[^/@]*@`).ReplaceAllString(url, "://")
}

// last looks at the stage that becomes the image.
func (l *linter) last(stages []instructions.Stage) {
	var user, health instructions.Command
	stage := stages[len(stages)-1]
	for _, c := range stage.Commands {
		switch c.(type) {
		case *instructions.UserCommand:
			user = c
		case *instructions.HealthCheckCommand:
			health = c
		}
	}
	inherits := slices.ContainsFunc(stages[:len(stages)-1], func(s instructions.Stage) bool { return strings.EqualFold(s.Name, stage.BaseName) })
	u, _ := user.(*instructions.UserCommand)
	switch {
	case u != nil && Root(u.User):
		l.add("root-user", osvdb.Medium, u.Location(), "add USER with a number above 0 as the last USER", "the image's program runs as root")
	case u == nil && !inherits:
		l.add("root-user", osvdb.Medium, stage.Location, "add USER with a number above 0", "no USER is set: unless the base image sets one, the program runs as root")
	}
	if health == nil && !inherits {
		l.add("no-health-check", osvdb.Negligible, stage.Location, "add HEALTHCHECK, or probes where it is deployed", "nothing says how to tell whether the program works")
	}
}

// Root is whether a USER means root: none, by name or by number.
func Root(user string) bool {
	user, _, _ = strings.Cut(user, ":")
	return user == "" || user == "root" || user == "0"
}

var shellRules = []struct {
	rule, message, fix string
	severity           osvdb.Severity
	match              *regexp.Regexp
}{
	{"curl-pipe-shell", "a script from the network is run unseen", "fetch it with ADD --checksum=sha256:..., then run it", osvdb.High,
		regexp.MustCompile(`\b(curl|wget)\b[^|;&\n]*\|\s*(sudo\s+)?(env\s+\S+\s+)*(ba|da|z|k|a)?sh\b|\b(ba|z)?sh\s+(-c\s+)?["']?[<$]\(\s*(curl|wget)\b`)},
	{"tls-check-off", "a download does not check who it is from", "install ca-certificates, or give the authority's certificate", osvdb.High,
		regexp.MustCompile(`\bcurl\b[^|;&\n]*\s(-[a-zA-Z]*k[a-zA-Z]*|--insecure)\b|\bwget\b[^|;&\n]*--no-check-certificate|\bgit\b[^|;&\n]*http\.sslVerify=false|NODE_TLS_REJECT_UNAUTHORIZED=0`)},
	{"unsigned-packages", "packages are installed without checking their signatures", "add the repository's key with signed-by instead", osvdb.High,
		regexp.MustCompile(`\bapt(-get)?\b[^|;&\n]*(--allow-unauthenticated|--force-yes)|\bapk\b[^|;&\n]*--allow-untrusted|\b(yum|dnf)\b[^|;&\n]*--nogpgcheck`)},
	{"world-writable", "files are made writable for everybody", "give them to the user that needs them with COPY --chown or chown", osvdb.Medium,
		regexp.MustCompile(`\bchmod\s+(-[a-zA-Z]+\s+)*(0?777|a\+w|o\+w|ugo\+w)\b`)},
	{"sudo", "sudo is installed: it gives whoever breaks in a way to root", "use USER; build steps need no sudo", osvdb.Low,
		regexp.MustCompile(`\b(apt(-get)?|apk|yum|dnf)\b[^|;&\n]*\b(install|add)\b[^|;&\n]*\ssudo\b`)},
}

// Shell returns the faults of one command of a shell.
func Shell(command string) []report.Fault {
	command = strings.ReplaceAll(command, "\\\n", " ")
	var faults []report.Fault
	for _, r := range shellRules {
		if r.match.MatchString(command) {
			faults = append(faults, report.Fault{Rule: r.rule, Severity: r.severity, Message: r.message, Fix: r.fix})
		}
	}
	return faults
}
