package dockerapi

import (
	"fmt"
	"net/http"
	"slices"
	"strings"

	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	types "github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/network"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/parser"

	"github.com/gantryhq/gantry/engine/image"
)

// serveCommit makes an image of a container, which stands still meanwhile unless the client
// says otherwise.
func (s *Server) serveCommit(w http.ResponseWriter, r *http.Request) error {
	c, err := s.find(r.FormValue("container"))
	if err != nil {
		return err
	}
	rec := s.recordOf(c)
	config := rec.Config
	if given := (types.Config{}); r.ContentLength != 0 {
		if err := decode(r, &given); err != nil {
			return err
		}
		if len(given.Cmd)+len(given.Entrypoint)+len(given.Env) > 0 {
			config = &given
		}
	}
	changed := imageConfigOf(config)
	if err := applyChanges(&changed, r.URL.Query()["changes"]); err != nil {
		return err
	}
	o := image.CommitOptions{Name: imageName(r), Config: changed, Author: r.FormValue("author"), Comment: r.FormValue("comment"),
		CreatedBy: strings.Join(append(slices.Clone(rec.Command), rec.Args...), " ")}
	c.op.Lock() // its layer stays while it is read
	defer c.op.Unlock()
	var img *image.Image
	commit := func() (err error) {
		img, err = s.cfg.Images.Commit(r.Context(), image.KeptName(Namespace, rec.ID), o)
		return err
	}
	if r.FormValue("pause") == "" || boolean(r, "pause") {
		err = s.standing(r.Context(), c, commit)
	} else {
		err = commit()
	}
	if err != nil {
		return fullDisk(err)
	}
	s.containerEvent(&rec, events.ActionCommit, map[string]string{"imageID": img.ID, "imageRef": img.Name})
	answer(w, http.StatusCreated, types.CommitResponse{ID: img.ID})
	return nil
}

// imageName is the name that a new image shall have, or one that counts as none.
func imageName(r *http.Request) string {
	name := r.FormValue("repo")
	if name == "" {
		return untagged + ":" + randomID()[:32]
	}
	if tag := r.FormValue("tag"); tag != "" {
		name += ":" + tag
	}
	return name
}

// serveImport makes an image of an archive of a root directory.
func (s *Server) serveImport(w http.ResponseWriter, r *http.Request) error {
	if from := r.FormValue("fromSrc"); from != "-" {
		return invalid("docker import %s is not possible: the machine fetches no archives; use `curl -fL %s | docker import -`", from, from)
	}
	if p := r.FormValue("platform"); p != "" && !platformFits(p) {
		return invalid("--platform %s is not possible: images here are for linux/%s", p, goarch)
	}
	config := dockerspec.DockerOCIImageConfig{}
	if err := applyChanges(&config, r.URL.Query()["changes"]); err != nil {
		return err
	}
	comment := r.FormValue("message")
	if comment == "" {
		comment = "Imported from -"
	}
	// Nothing may be written before the archive was read: HTTP/1 would stop taking the body.
	img, err := s.cfg.Images.ImportRoot(r.Context(), r.Body, image.CommitOptions{Name: imageName(r), Config: config, Comment: comment})
	if err != nil {
		return refuseDamage(err)
	}
	out := &messages{w: w}
	out.send(message{Status: img.ID})
	s.event(events.ImageEventType, events.ActionImport, img.ID, map[string]string{"name": image.FamiliarName(img.Name)})
	return nil
}

// refuseDamage tells what is wrong with an archive as the client's fault, unless the disk
// is full.
func refuseDamage(err error) error {
	if diskIsFull(err) {
		return fullDisk(err)
	}
	return invalid("%s", explain(err))
}

// applyChanges carries out the lines of a Dockerfile that --change gives.
func applyChanges(c *dockerspec.DockerOCIImageConfig, changes []string) error {
	for _, change := range changes {
		if strings.TrimSpace(change) == "" {
			continue
		}
		parsed, err := parser.Parse(strings.NewReader(change))
		if err != nil {
			return invalid("--change %q: %v", change, err)
		}
		for _, node := range parsed.AST.Children {
			command, err := instructions.ParseInstruction(node)
			if err != nil {
				return invalid("--change %q: %v", change, err)
			}
			if err := applyChange(c, command); err != nil {
				return invalid("--change %q: %v", change, err)
			}
		}
	}
	return nil
}

func applyChange(c *dockerspec.DockerOCIImageConfig, command any) error {
	words := func(l instructions.ShellDependantCmdLine) []string {
		if !l.PrependShell {
			return l.CmdLine
		}
		shell := c.Shell
		if len(shell) == 0 {
			shell = []string{"/bin/sh", "-c"}
		}
		return append(slices.Clone(shell), strings.Join(l.CmdLine, " "))
	}
	switch in := command.(type) {
	case *instructions.CmdCommand:
		c.Cmd = words(in.ShellDependantCmdLine)
	case *instructions.EntrypointCommand:
		c.Entrypoint = words(in.ShellDependantCmdLine)
	case *instructions.EnvCommand:
		for _, kv := range in.Env {
			c.Env = slices.DeleteFunc(slices.Clone(c.Env), func(e string) bool { return strings.HasPrefix(e, kv.Key+"=") })
			c.Env = append(c.Env, kv.Key+"="+kv.Value)
		}
	case *instructions.LabelCommand:
		for _, kv := range in.Labels {
			c.Labels = merged(c.Labels, map[string]string{kv.Key: kv.Value})
		}
	case *instructions.ExposeCommand:
		for _, text := range in.Ports {
			port, err := network.ParsePort(text)
			if err != nil {
				return err
			}
			ports := map[string]struct{}{port.String(): {}}
			for p := range c.ExposedPorts {
				ports[p] = struct{}{}
			}
			c.ExposedPorts = ports
		}
	case *instructions.VolumeCommand:
		volumes := map[string]struct{}{}
		for v := range c.Volumes {
			volumes[v] = struct{}{}
		}
		for _, v := range in.Volumes {
			volumes[v] = struct{}{}
		}
		c.Volumes = volumes
	case *instructions.UserCommand:
		c.User = in.User
	case *instructions.WorkdirCommand:
		c.WorkingDir = in.Path
	case *instructions.StopSignalCommand:
		c.StopSignal = in.Signal
	case *instructions.HealthCheckCommand:
		c.Healthcheck = in.Health
	case *instructions.OnbuildCommand:
		c.OnBuild = append(slices.Clone(c.OnBuild), in.Expression)
	default:
		return fmt.Errorf("only CMD, ENTRYPOINT, ENV, EXPOSE, HEALTHCHECK, LABEL, ONBUILD, STOPSIGNAL, USER, VOLUME and WORKDIR change a configuration")
	}
	return nil
}

// imageConfigOf is what an image keeps of a container's configuration.
func imageConfigOf(c *types.Config) dockerspec.DockerOCIImageConfig {
	ports := map[string]struct{}{}
	for p := range c.ExposedPorts {
		ports[p.String()] = struct{}{}
	}
	out := dockerspec.DockerOCIImageConfig{}
	out.User, out.ExposedPorts, out.Env, out.Entrypoint, out.Cmd = c.User, ports, c.Env, c.Entrypoint, c.Cmd
	out.Volumes, out.WorkingDir, out.Labels, out.StopSignal = c.Volumes, c.WorkingDir, c.Labels, c.StopSignal
	out.Healthcheck, out.OnBuild, out.Shell = c.Healthcheck, c.OnBuild, c.Shell
	return out
}
