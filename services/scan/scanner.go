package scan

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/gantryhq/gantry/services/scan/dockerfile"
	"github.com/gantryhq/gantry/services/scan/inspect"
	"github.com/gantryhq/gantry/services/scan/osvdb"
	"github.com/gantryhq/gantry/services/scan/report"
)

// manyLayers is beyond what an image needs: each costs every start and every pull,
// and the kernel's overlay has a limit.
const manyLayers = 50

// Scanner scans images with one database.
type Scanner struct {
	Database *osvdb.DB     // nil when there is none: then no vulnerabilities are found
	Status   *osvdb.Status // what Database is
	Options  inspect.Options
}

// Image scans one image. target is how the report calls it.
func (s *Scanner) Image(ctx context.Context, target string, img v1.Image) (*report.Report, error) {
	r := &report.Report{Target: target, Started: time.Now().UTC(), Vulnerabilities: []report.Vulnerability{}, Faults: []report.Fault{}}
	digest, err := img.Digest()
	if err != nil {
		return nil, fmt.Errorf("scan %s: %w", target, err)
	}
	config, err := img.ConfigFile()
	if err != nil {
		return nil, fmt.Errorf("scan %s: %w", target, err)
	}
	found, err := inspect.Image(ctx, img, s.Options)
	if err != nil {
		return nil, fmt.Errorf("scan %s: %w", target, err)
	}
	r.Digest, r.Platform, r.OS = digest.String(), config.OS+"/"+config.Architecture, found.OS
	r.Layers, r.Packages, r.Notes = found.Layers, found.Packages, found.Notes
	r.Faults = append(fileFaults(found), configFaults(config, len(found.Layers))...)
	if s.Database != nil {
		r.Database = &report.Database{Name: s.Status.Name, Digest: s.Status.Digest, Records: s.Status.Records, Newest: s.Status.Newest}
		if r.Vulnerabilities, err = match(s.Database, r.Packages); err != nil {
			return nil, fmt.Errorf("scan %s: %w", target, err)
		}
	}
	r.Finished = time.Now().UTC()
	r.Sort()
	return r, nil
}

// Dockerfile checks a Dockerfile.
func Dockerfile(ctx context.Context, path string) (*report.Report, error) {
	r := &report.Report{Target: path, Started: time.Now().UTC(), Vulnerabilities: []report.Vulnerability{}, Faults: []report.Fault{}}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read Dockerfile: %w", err)
	}
	faults, err := dockerfile.Lint(ctx, filepath.Base(path), text)
	if err != nil {
		return nil, err
	}
	r.Faults = append(r.Faults, faults...)
	r.Finished = time.Now().UTC()
	r.Sort()
	return r, nil
}

// fileFaults are those of files in layers.
func fileFaults(found *inspect.Found) []report.Fault {
	var out []report.Fault
	for _, s := range found.Secrets {
		f := report.Fault{Rule: report.RuleSecret, Severity: osvdb.High, Path: s.Path, Line: s.Line, Layer: &s.Layer,
			Message: "a " + s.Kind + " is in the image", Fix: "revoke it, then build again with RUN --mount=type=secret"}
		if s.Deleted {
			f.Message = "a " + s.Kind + " is in a layer; a later one deletes the file, but everybody who pulls gets it"
		}
		out = append(out, f)
	}
	for _, s := range found.Setuid {
		out = append(out, report.Fault{Rule: "setuid", Severity: osvdb.Negligible, Path: s.Path, Layer: &s.Layer,
			Message: "the program runs with the rights of its owner (" + s.Mode + ")", Fix: "chmod ug-s what is not needed"})
	}
	return out
}

// configFaults are those of the image's configuration and of its history.
func configFaults(c *v1.ConfigFile, layers int) []report.Fault {
	var out []report.Fault
	add := func(rule string, s osvdb.Severity, message, fix string) {
		out = append(out, report.Fault{Rule: rule, Severity: s, Message: message, Fix: fix})
	}
	if dockerfile.Root(c.Config.User) {
		add("root-user", osvdb.Medium, "the image's program runs as root", "add USER with a number above 0")
	}
	if h := c.Config.Healthcheck; h == nil || len(h.Test) == 0 || h.Test[0] == "NONE" {
		add("no-health-check", osvdb.Negligible, "nothing says how to tell whether the program works", "add HEALTHCHECK, or probes where it is deployed")
	}
	if layers > manyLayers {
		add("many-layers", osvdb.Low, fmt.Sprintf("the image has %d layers", layers), "join RUN steps, or build in stages")
	}
	if base := c.Config.Labels["org.opencontainers.image.base.name"]; base != "" && c.Config.Labels["org.opencontainers.image.base.digest"] == "" {
		if f := dockerfile.Unpinned(base); f != nil {
			out = append(out, *f)
		}
	}
	return append(append(out, environmentFaults(c)...), historyFaults(c)...)
}

// environmentFaults finds secrets that everybody who can read the image can read.
func environmentFaults(c *v1.ConfigFile) []report.Fault {
	var out []report.Fault
	for _, e := range c.Config.Env {
		key, value, _ := strings.Cut(e, "=")
		for _, s := range inspect.SecretsIn(value) {
			out = append(out, report.Fault{Rule: report.RuleSecret, Severity: osvdb.High, Path: "ENV " + key,
				Message: "a " + s.Kind + " is in the image's environment", Fix: "revoke it, and give it to the container from a Secret"})
		}
		if len(inspect.SecretsIn(value)) == 0 && value != "" && namesSecret(key) {
			out = append(out, report.Fault{Rule: "secret-name", Severity: osvdb.Medium, Path: "ENV " + key,
				Message: "the image sets an environment variable that is called like a secret", Fix: "give it to the container from a Secret"})
		}
	}
	return out
}

// namesSecret says whether a variable is called like one that holds a secret.
func namesSecret(key string) bool {
	key = strings.ToUpper(key)
	if strings.HasSuffix(key, "_FILE") || strings.HasSuffix(key, "_PATH") {
		return false
	}
	for _, word := range []string{"PASSWORD", "PASSWD", "SECRET", "API_KEY", "APIKEY", "ACCESS_KEY", "PRIVATE_KEY", "AUTH_TOKEN", "ACCESS_TOKEN"} {
		if strings.Contains(key, word) {
			return true
		}
	}
	return false
}

// historyFaults judges the commands that made the image, which BuildKit and docker record.
func historyFaults(c *v1.ConfigFile) []report.Fault {
	var out []report.Fault
	layer := -1
	for _, h := range c.History {
		var at *int
		if !h.EmptyLayer {
			layer++
			n := layer
			at = &n
		}
		found := dockerfile.Shell(h.CreatedBy)
		for _, s := range inspect.SecretsIn(h.CreatedBy) {
			found = append(found, report.Fault{Rule: report.RuleSecret, Severity: osvdb.High,
				Message: "a " + s.Kind + " is in the image's history", Fix: "revoke it, then build again with RUN --mount=type=secret"})
		}
		for _, f := range found {
			f.Path, f.Layer = "history", at
			out = append(out, f)
		}
	}
	return out
}
