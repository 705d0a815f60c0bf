package dockerapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"

	types "github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/network"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/gantryhq/gantry/engine/image"
	"github.com/gantryhq/gantry/engine/node/runtime"
)

var validName = regexp.MustCompile(`^/?[a-zA-Z0-9][a-zA-Z0-9_.-]+$`)

// serveCreate makes a container that does not run yet.
func (s *Server) serveCreate(w http.ResponseWriter, r *http.Request) error {
	var req types.CreateRequest
	if err := decodeCreate(r, &req); err != nil {
		return err
	}
	if req.Config == nil {
		return invalid("config cannot be empty in order to create a container")
	}
	if req.HostConfig == nil {
		req.HostConfig = &types.HostConfig{}
	}
	if p := r.FormValue("platform"); p != "" && !platformFits(p) {
		return notFound("image with reference %s was found but does not provide the specified platform (%s): this machine is linux/%s", req.Image, p, goarch)
	}
	warnings, err := refuse(req.Config, req.HostConfig)
	if err != nil {
		return err
	}
	name := strings.TrimPrefix(r.FormValue("name"), "/")
	rec, err := s.newRecord(r.Context(), name, &req)
	if err != nil {
		return err
	}
	if err := s.create(r.Context(), rec); err != nil {
		return err
	}
	if size := rec.HostConfig.ConsoleSize; size[0] > 0 {
		s.terminalOf(rec.ID).resize(runtime.Size{Height: uint16(size[0]), Width: uint16(size[1])})
	}
	if warnings == nil {
		warnings = []string{}
	}
	answer(w, http.StatusCreated, types.CreateResponse{ID: rec.ID, Warnings: warnings})
	return nil
}

// decodeCreate reads a request. Commands may be single strings, as older clients write
// them; fields that are no more are refused if they ask for something.
func decodeCreate(r *http.Request, req *types.CreateRequest) error {
	var raw map[string]json.RawMessage
	if err := decode(r, &raw); err != nil {
		return err
	}
	for _, field := range []string{"Cmd", "Entrypoint"} {
		var word string
		if json.Unmarshal(raw[field], &word) == nil && word != "" {
			raw[field], _ = json.Marshal([]string{word}) // strings always can be
		}
	}
	var former struct {
		MacAddress string
		HostConfig struct{ KernelMemory, KernelMemoryTCP int64 }
	}
	blob, err := json.Marshal(raw)
	if err == nil {
		err = errors.Join(json.Unmarshal(blob, req), json.Unmarshal(blob, &former))
	}
	switch {
	case err != nil:
		return invalid("invalid JSON: %v", err)
	case former.MacAddress != "":
		return invalid("--mac-address is not possible: the network of pods chooses addresses")
	case former.HostConfig.KernelMemory > 0 || former.HostConfig.KernelMemoryTCP > 0:
		return invalid("--kernel-memory is not possible: kernels no longer limit it apart; use --memory")
	}
	return nil
}

// newRecord combines what is asked for with what the image says.
func (s *Server) newRecord(ctx context.Context, name string, req *types.CreateRequest) (*record, error) {
	if name != "" && !validName.MatchString(name) {
		return nil, invalid("Invalid container name (%s), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed", name)
	}
	img, err := s.image(ctx, req.Image)
	if err != nil {
		return nil, err
	}
	r := &record{ID: randomID(), Name: name, Created: time.Now().UTC(), Image: pinned(img), ImageID: img.ID,
		Config: req.Config, HostConfig: req.HostConfig, Networks: map[string]*network.EndpointSettings{}}
	if err := s.fromImage(ctx, r, img); err != nil {
		return nil, err
	}
	if r.Config.Hostname == "" && !r.HostConfig.NetworkMode.IsHost() && !r.HostConfig.UTSMode.IsHost() {
		r.Config.Hostname = short(r.ID)
	}
	if err := s.resolveJoined(r); err != nil {
		return nil, err
	}
	if err := s.chooseNetworks(r, req.NetworkingConfig); err != nil {
		return nil, err
	}
	for port, bindings := range r.HostConfig.PortBindings {
		for i := range bindings {
			if _, _, err := portRange(bindings[i].HostPort); err != nil {
				return nil, invalid("invalid port of --publish %s: %v", port, err)
			}
		}
	}
	if err := checkShm(r.HostConfig); err != nil {
		return nil, err
	}
	if _, err := runtimeOf(r.HostConfig.Runtime); err != nil {
		return nil, err
	}
	if r.HostConfig.ShmSize == 0 {
		r.HostConfig.ShmSize = shmDefault
	}
	if r.HostConfig.RestartPolicy.Name == "" {
		r.HostConfig.RestartPolicy.Name = types.RestartPolicyDisabled
	}
	return r, nil
}

// fromImage fills in what the image decides.
func (s *Server) fromImage(ctx context.Context, r *record, img *image.Image) error {
	c := r.Config
	of, err := s.dockerConfig(ctx, img)
	if err != nil {
		return err
	}
	if len(c.Entrypoint) == 0 {
		if len(c.Cmd) == 0 {
			c.Cmd = of.Cmd
		}
		if c.Entrypoint == nil {
			c.Entrypoint = of.Entrypoint
		}
	}
	if len(c.Entrypoint) == 1 && c.Entrypoint[0] == "" { // --entrypoint ""
		c.Entrypoint = nil
	}
	if len(c.Entrypoint)+len(c.Cmd) == 0 {
		return invalid("%v", errNoCommand)
	}
	r.Command, r.Args = c.Entrypoint, c.Cmd
	have := map[string]bool{}
	for _, kv := range c.Env {
		name, _, _ := strings.Cut(kv, "=")
		have[name] = true
	}
	for _, kv := range of.Env {
		if name, _, _ := strings.Cut(kv, "="); !have[name] {
			c.Env = append(c.Env, kv)
		}
	}
	if c.WorkingDir == "" {
		c.WorkingDir = of.WorkingDir
	}
	if c.User == "" {
		c.User = of.User
	}
	if c.StopSignal == "" {
		c.StopSignal = of.StopSignal
	}
	c.Labels = merged(of.Labels, c.Labels)
	if c.Healthcheck == nil || len(c.Healthcheck.Test) == 0 {
		h := c.Healthcheck
		c.Healthcheck = of.Healthcheck
		if h != nil && c.Healthcheck != nil {
			adjusted := *c.Healthcheck
			adjusted.Interval, adjusted.Timeout = orElse(h.Interval, adjusted.Interval), orElse(h.Timeout, adjusted.Timeout)
			adjusted.StartPeriod = orElse(h.StartPeriod, adjusted.StartPeriod)
			if h.Retries > 0 {
				adjusted.Retries = h.Retries
			}
			c.Healthcheck = &adjusted
		}
	}
	for port := range of.ExposedPorts {
		p, err := network.ParsePort(port)
		if err != nil {
			continue // the image's own business
		}
		if c.ExposedPorts == nil {
			c.ExposedPorts = network.PortSet{}
		}
		c.ExposedPorts[p] = struct{}{}
	}
	for path := range of.Volumes {
		if c.Volumes == nil {
			c.Volumes = map[string]struct{}{}
		}
		c.Volumes[path] = struct{}{}
	}
	return nil
}

func merged(a, b map[string]string) map[string]string {
	out := map[string]string{}
	maps.Copy(out, a)
	maps.Copy(out, b)
	return out
}

// create keeps a record and makes what belongs to it: the writable layer and volumes.
func (s *Server) create(ctx context.Context, r *record) (err error) {
	c := newContainer(*r)
	c.op.Lock()
	defer c.op.Unlock()
	if err := s.claimName(c, r); err != nil {
		return err
	}
	kept := image.KeptName(Namespace, r.ID)
	defer func() {
		if err != nil {
			s.mu.Lock()
			delete(s.containers, r.ID)
			s.mu.Unlock()
			_ = s.cfg.Images.Drop(context.WithoutCancel(ctx), kept)
			s.dropAnonymous(context.WithoutCancel(ctx), r)
		}
	}()
	if err := s.cfg.Images.Keep(ctx, kept, r.Image); err != nil {
		return err
	}
	err = s.cfg.Images.WithKept(ctx, kept, func(rootfs string) error {
		if err := s.resolveUser(r, rootfs); err != nil {
			return err
		}
		return s.chooseMounts(ctx, r, rootfs)
	})
	if err != nil {
		return err
	}
	s.mu.Lock()
	r.Name = c.rec.Name
	c.rec = *r
	s.mu.Unlock()
	secret, err := secretOf(r)
	if err != nil {
		return err
	}
	if _, err := s.client.CoreV1().Secrets(Namespace).Create(ctx, secret, metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("keep container %s: %w", r.Name, err)
	}
	s.containerEvent(r, events.ActionCreate, nil)
	return nil
}

// claimName enters a container under its name, or one that is made up.
func (s *Server) claimName(c *container, r *record) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	taken := func(name string) *container {
		for _, other := range s.containers {
			if other.rec.Name == name {
				return other
			}
		}
		return nil
	}
	if r.Name == "" {
		for r.Name = madeUpName(); taken(r.Name) != nil; r.Name = madeUpName() {
		}
	}
	if other := taken(r.Name); other != nil {
		return conflict("Conflict. The container name \"/%s\" is already in use by container \"%s\". You have to remove (or rename) that container to be able to reuse that name.", r.Name, other.rec.ID)
	}
	c.rec.Name = r.Name
	s.containers[r.ID] = c
	return nil
}

// resolveUser turns names of users and groups into numbers, which is all that pods know.
func (s *Server) resolveUser(r *record, rootfs string) error {
	if user := r.Config.User; user != "" {
		found, err := s.cfg.Machine.User(rootfs, user)
		if err != nil {
			return invalid("unable to find user %s: %v", user, err)
		}
		uid, gid := int64(found.UID), int64(found.GID)
		r.UID, r.GID = &uid, &gid
		for _, g := range found.AdditionalGroups {
			r.Groups = append(r.Groups, int64(g))
		}
	}
	for _, group := range r.HostConfig.GroupAdd {
		found, err := s.cfg.Machine.User(rootfs, "0:"+group)
		if err != nil {
			return invalid("unable to find group %s: %v", group, err)
		}
		r.Groups = append(r.Groups, int64(found.GID))
	}
	slices.Sort(r.Groups)
	r.Groups = slices.Compact(r.Groups)
	return nil
}

// pinned is the name of an image that a pod gets: with its tag, to be recognized, and its
// digest, so that it stays the image that the container was made from.
func pinned(img *image.Image) string {
	if strings.Contains(img.Name, "@") {
		return img.Name
	}
	return img.Name + "@" + img.Digest
}

// image finds an image by any name or id that docker has for it.
func (s *Server) image(ctx context.Context, ref string) (*image.Image, error) {
	if ref == "" {
		return nil, invalid("no image was named")
	}
	img, err := s.cfg.Images.Get(ctx, ref)
	if err == nil {
		return img, nil
	}
	if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, image.ErrBadName) {
		return nil, err
	}
	prefix := strings.TrimPrefix(ref, "sha256:")
	if len(prefix) >= 4 && hexDigits.MatchString(prefix) {
		list, err := s.cfg.Images.List(ctx)
		if err != nil {
			return nil, err
		}
		var found *image.Image
		for _, i := range list {
			if !strings.HasPrefix(i.ID, "sha256:"+prefix) && !strings.HasPrefix(i.Digest, "sha256:"+prefix) {
				continue
			}
			if found != nil && found.ID != i.ID {
				return nil, invalid("multiple images have an id that begins with %s", prefix)
			}
			if found == nil || strings.Contains(found.Name, "@") {
				found = i
			}
		}
		if found != nil {
			return found, nil
		}
	}
	return nil, notFound("No such image: %s", withTag(ref))
}

var hexDigits = regexp.MustCompile(`^[0-9a-f]+$`)

// withTag is a reference as docker says it.
func withTag(ref string) string {
	if strings.Contains(ref, "@") || strings.Contains(ref[strings.LastIndex(ref, "/")+1:], ":") || strings.HasPrefix(ref, "sha256:") {
		return ref
	}
	return ref + ":latest"
}

var (
	leftNames  = strings.Fields("brave bright calm clever eager fair fine gentle glad keen kind lively lucid merry mild neat noble proud quick quiet ready sharp sound steady sunny swift tidy true warm wise")
	rightNames = strings.Fields("anchor barge beacon boom bridge bulkhead buoy cable capstan cargo crane davit deck derrick dock ferry fleet gantry harbor hatch hoist hull jetty keel lighter mast mooring pier pulley quay rigging rudder tide wharf winch")
)

// madeUpName is a name for a container that was given none.
func madeUpName() string {
	r := randomID()
	var a, b, n int
	fmt.Sscanf(r[:12], "%04x%04x%04x", &a, &b, &n)
	return fmt.Sprintf("%s_%s%d", leftNames[a%len(leftNames)], rightNames[b%len(rightNames)], n%100)
}
