package dockerapi

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/distribution/reference"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/moby/moby/api/types/events"
	types "github.com/moby/moby/api/types/image"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/gantryhq/gantry/engine/image"
)

const goarch = runtime.GOARCH

// untagged is the repository of images that were built without a name.
const untagged = "untagged.gantry.dev/image"

func (s *Server) imageRoutes() map[string]handler {
	return map[string]handler{
		"GET /images/json":    s.serveImages,
		"POST /images/create": s.serveImageCreate,
		"POST /images/load":   s.serveImageLoad,
		"GET /images/get":     s.serveImagesSave,
		"POST /images/prune":  s.serveImagesPrune,
		"GET /images/search": func(http.ResponseWriter, *http.Request) error {
			return unavailable("searching registries is not possible here")
		},
		"GET /images/{name...}":  s.serveImageGet,
		"POST /images/{name...}": s.serveImagePost,
		"DELETE /images/{name...}": func(w http.ResponseWriter, r *http.Request) error {
			return s.serveImageRemove(w, r, r.PathValue("name"))
		},
		"GET /distribution/{name...}": s.serveDistribution,
		"POST /build":                 s.serveBuild,
		"POST /build/cancel":          func(w http.ResponseWriter, _ *http.Request) error { return noContent(w) },
		"POST /build/prune":           s.serveBuildPrune,
		"POST /session":               s.serveSession,
		"POST /grpc":                  s.serveGRPC,
		"POST /commit":                s.serveCommit,
		"POST /auth":                  s.serveAuth,
	}
}

// serveImageGet serves what is asked of an image whose name may have slashes.
func (s *Server) serveImageGet(w http.ResponseWriter, r *http.Request) error {
	path := r.PathValue("name")
	for suffix, h := range map[string]func(http.ResponseWriter, *http.Request, string) error{
		"/json": s.serveImageInspect, "/history": s.serveHistory, "/get": s.serveImageSave,
	} {
		if name, is := strings.CutSuffix(path, suffix); is {
			return h(w, r, name)
		}
	}
	return notFound("page not found")
}

func (s *Server) serveImagePost(w http.ResponseWriter, r *http.Request) error {
	path := r.PathValue("name")
	if name, is := strings.CutSuffix(path, "/push"); is {
		return s.servePush(w, r, name)
	}
	if name, is := strings.CutSuffix(path, "/tag"); is {
		return s.serveTag(w, r, name)
	}
	return notFound("page not found")
}

// dockerConfig is an image's configuration with docker's own fields, such as its health check.
func (s *Server) dockerConfig(ctx context.Context, img *image.Image) (*dockerspec.DockerOCIImageConfig, error) {
	blob, err := s.cfg.Images.ConfigBlob(ctx, img)
	if err != nil {
		return nil, err
	}
	var of dockerspec.DockerOCIImage
	if err := json.Unmarshal(blob, &of); err != nil {
		return nil, fmt.Errorf("read the configuration of image %s: %w", img.Name, err)
	}
	return &of.Config, nil
}

// imageGroup is an image with all its names.
type imageGroup struct {
	*image.Image
	tags, digests []string
}

// group lists images by id, newest first.
func (s *Server) group(ctx context.Context) ([]*imageGroup, error) {
	list, err := s.cfg.Images.List(ctx)
	if err != nil {
		return nil, err
	}
	byID := map[string]*imageGroup{}
	for _, img := range list {
		g := byID[img.ID]
		if g == nil {
			g = &imageGroup{Image: img}
			byID[img.ID] = g
		}
		if !strings.Contains(img.Name, "@") {
			g.tags = append(g.tags, image.FamiliarName(img.Name))
		}
		if img.Repository() != untagged {
			if d := image.FamiliarName(img.RepoDigest()); !slices.Contains(g.digests, d) {
				g.digests = append(g.digests, d)
			}
		}
	}
	groups := slices.Collect(maps.Values(byID))
	slices.SortFunc(groups, func(a, b *imageGroup) int {
		if c := created(b.Image).Compare(created(a.Image)); c != 0 {
			return c
		}
		return strings.Compare(a.ID, b.ID)
	})
	return groups, nil
}

func created(img *image.Image) time.Time {
	if img.Config.Created == nil {
		return time.Time{}
	}
	return *img.Config.Created
}

func unix0(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.Unix()
}

func (s *Server) serveImages(w http.ResponseWriter, r *http.Request) error {
	f, err := filtersOf(r)
	if err == nil {
		err = f.known("dangling", "label", "reference", "before", "since", "until")
	}
	if err != nil {
		return err
	}
	groups, err := s.group(r.Context())
	if err != nil {
		return err
	}
	cut, err := s.imageTimes(r.Context(), f)
	if err != nil {
		return err
	}
	if ref := r.FormValue("filter"); ref != "" {
		f["reference"] = append(f["reference"], ref)
	}
	out := []types.Summary{}
	for _, g := range groups {
		dangling, asked := f.flag("dangling")
		if asked && dangling != (len(g.tags) == 0) || !f.labels("label", g.Config.Config.Labels) || !cut(created(g.Image)) {
			continue
		}
		if !f.any("reference", func(p string) bool { return g.matches(p) }) {
			continue
		}
		out = append(out, s.summaryOf(g))
	}
	return ok(w, out)
}

// imageTimes is the filter by age.
func (s *Server) imageTimes(ctx context.Context, f filters) (func(time.Time) bool, error) {
	var before, since time.Time
	for _, ref := range f["before"] {
		img, err := s.image(ctx, ref)
		if err != nil {
			return nil, err
		}
		before = created(img)
	}
	for _, ref := range f["since"] {
		img, err := s.image(ctx, ref)
		if err != nil {
			return nil, err
		}
		since = created(img)
	}
	for _, text := range f["until"] {
		t, err := timeOf(text)
		if err != nil {
			return nil, err
		}
		before = t
	}
	return func(t time.Time) bool {
		return (before.IsZero() || t.Before(before)) && (since.IsZero() || t.After(since))
	}, nil
}

// matches is whether one of the names fits a pattern: "cart", "cart:2", "shop/*".
func (g *imageGroup) matches(pattern string) bool {
	for _, name := range append(slices.Clone(g.tags), g.digests...) {
		ref, err := reference.ParseNormalizedNamed(name)
		if err != nil {
			continue
		}
		if is, err := reference.FamiliarMatch(pattern, ref); err == nil && is {
			return true
		}
	}
	return false
}

func (s *Server) summaryOf(g *imageGroup) types.Summary {
	out := types.Summary{ID: g.ID, Created: unix0(created(g.Image)), Labels: g.Config.Config.Labels, RepoTags: g.tags, RepoDigests: g.digests,
		Size: g.Size, SharedSize: -1, Containers: -1}
	if out.RepoTags == nil {
		out.RepoTags = []string{}
	}
	if out.RepoDigests == nil {
		out.RepoDigests = []string{}
	}
	return out
}

func (s *Server) serveImageInspect(w http.ResponseWriter, r *http.Request, name string) error {
	img, err := s.image(r.Context(), name)
	if err != nil {
		return err
	}
	groups, err := s.group(r.Context())
	if err != nil {
		return err
	}
	config, err := s.dockerConfig(r.Context(), img)
	if err != nil {
		return err
	}
	out := types.InspectResponse{ID: img.ID, RepoTags: []string{}, RepoDigests: []string{}, Author: img.Config.Author, Config: config,
		Architecture: img.Config.Architecture, Variant: img.Config.Variant, Os: img.Config.OS, Size: img.Size,
		RootFS: types.RootFS{Type: "layers"}, Metadata: types.Metadata{LastTagTime: img.UpdatedAt}}
	if t := created(img); !t.IsZero() {
		out.Created = t.Format(time.RFC3339Nano)
	}
	for _, d := range img.Config.RootFS.DiffIDs {
		out.RootFS.Layers = append(out.RootFS.Layers, d.String())
	}
	for _, g := range groups {
		if g.ID == img.ID {
			out.RepoTags, out.RepoDigests = append(out.RepoTags, g.tags...), append(out.RepoDigests, g.digests...)
		}
	}
	return ok(w, out)
}

func (s *Server) serveHistory(w http.ResponseWriter, r *http.Request, name string) error {
	img, err := s.image(r.Context(), name)
	if err != nil {
		return err
	}
	sizes, err := s.cfg.Images.LayerSizes(r.Context(), img)
	if err != nil {
		return err
	}
	groups, err := s.group(r.Context())
	if err != nil {
		return err
	}
	out := []types.HistoryResponseItem{}
	layer := 0
	for _, h := range history(img, len(sizes)) {
		item := types.HistoryResponseItem{ID: "<missing>", CreatedBy: h.CreatedBy, Comment: h.Comment, Tags: []string{}}
		if h.Created != nil {
			item.Created = unix0(*h.Created)
		}
		if !h.EmptyLayer && layer < len(sizes) {
			item.Size = sizes[layer]
			layer++
		}
		out = append(out, item)
	}
	slices.Reverse(out)
	if len(out) > 0 {
		out[0].ID = img.ID
		for _, g := range groups {
			if g.ID == img.ID {
				out[0].Tags = append(out[0].Tags, g.tags...)
			}
		}
	}
	return ok(w, out)
}

// history is what the image says of its layers; an image that says nothing has one entry
// for each.
func history(img *image.Image, layers int) []ocispec.History {
	if len(img.Config.History) > 0 {
		return img.Config.History
	}
	return make([]ocispec.History, layers)
}

func (s *Server) serveTag(w http.ResponseWriter, r *http.Request, name string) error {
	img, err := s.image(r.Context(), name)
	if err != nil {
		return err
	}
	target := r.FormValue("repo")
	if tag := r.FormValue("tag"); tag != "" {
		target += ":" + tag
	}
	named, err := s.cfg.Images.Tag(r.Context(), img.Name, target)
	if err != nil {
		return err
	}
	s.event(events.ImageEventType, events.ActionTag, img.ID, map[string]string{"name": image.FamiliarName(named.Name)})
	w.WriteHeader(http.StatusCreated)
	return nil
}

// serveImageRemove removes a name, and with the last one, or by id, the image.
func (s *Server) serveImageRemove(w http.ResponseWriter, r *http.Request, name string) error {
	img, err := s.image(r.Context(), name)
	if err != nil {
		return err
	}
	deleted, err := s.removeImage(r.Context(), img, name, boolean(r, "force"))
	if err != nil {
		return err
	}
	return ok(w, deleted)
}

func (s *Server) removeImage(ctx context.Context, img *image.Image, name string, force bool) ([]types.DeleteResponse, error) {
	groups, err := s.group(ctx)
	if err != nil {
		return nil, err
	}
	var g *imageGroup
	for _, each := range groups {
		if each.ID == img.ID {
			g = each
		}
	}
	if g == nil {
		return nil, notFound("No such image: %s", name)
	}
	byID := strings.HasPrefix(img.ID, "sha256:"+strings.TrimPrefix(name, "sha256:")) || strings.HasPrefix(img.Digest, "sha256:"+strings.TrimPrefix(name, "sha256:"))
	if byID && len(g.tags) > 1 && !force {
		return nil, conflict("conflict: unable to delete %s (must be forced) - image is referenced in multiple repositories", short(strings.TrimPrefix(img.ID, "sha256:")))
	}
	last := byID || len(g.tags) <= 1
	if last {
		if err := s.imageUsed(img, name, force); err != nil {
			return nil, err
		}
	}
	var out []types.DeleteResponse
	if !last {
		if err := s.cfg.Images.Remove(ctx, img.Name); err != nil {
			return nil, err
		}
		s.event(events.ImageEventType, events.ActionUnTag, img.ID, map[string]string{"name": image.FamiliarName(img.Name)})
		return append(out, types.DeleteResponse{Untagged: image.FamiliarName(img.Name)}), nil
	}
	list, err := s.cfg.Images.List(ctx)
	if err != nil {
		return nil, err
	}
	for _, each := range list {
		if each.ID != img.ID {
			continue
		}
		if err := s.cfg.Images.Remove(ctx, each.Name); err != nil {
			return out, err
		}
		out = append(out, types.DeleteResponse{Untagged: image.FamiliarName(each.Name)})
		s.event(events.ImageEventType, events.ActionUnTag, img.ID, map[string]string{"name": image.FamiliarName(each.Name)})
	}
	s.event(events.ImageEventType, events.ActionDelete, img.ID, map[string]string{"name": img.ID})
	return append(out, types.DeleteResponse{Deleted: img.ID}), nil
}

// imageUsed refuses the removal of an image that containers are made from.
func (s *Server) imageUsed(img *image.Image, name string, force bool) error {
	for _, c := range s.all() {
		r := s.recordOf(c)
		if r.ImageID != img.ID {
			continue
		}
		switch running := s.current(c).running(); {
		case running:
			return conflict("conflict: unable to remove repository reference \"%s\" (cannot be forced) - container %s is using its referenced image %s", name, short(r.ID), short(strings.TrimPrefix(img.ID, "sha256:")))
		case !force:
			return conflict("conflict: unable to remove repository reference \"%s\" (must force) - container %s is using its referenced image %s", name, short(r.ID), short(strings.TrimPrefix(img.ID, "sha256:")))
		}
	}
	return nil
}

// serveImagesPrune removes images without a name, or all that no container of docker and
// no pod uses.
func (s *Server) serveImagesPrune(w http.ResponseWriter, r *http.Request) error {
	f, err := filtersOf(r)
	if err == nil {
		err = f.known("dangling", "label", "label!", "until")
	}
	if err != nil {
		return err
	}
	cut, err := s.imageTimes(r.Context(), filters{"until": f["until"]})
	if err != nil {
		return err
	}
	dangling, asked := f.flag("dangling")
	groups, err := s.group(r.Context())
	if err != nil {
		return err
	}
	used, err := s.imagesOfPods(r.Context())
	if err != nil {
		return err
	}
	report := types.PruneReport{ImagesDeleted: []types.DeleteResponse{}}
	for _, g := range groups {
		onlyDangling := !asked || dangling
		if onlyDangling && len(g.tags) > 0 || used[g.Digest] || !cut(created(g.Image)) || !f.labels("label", g.Config.Config.Labels) || !f.withoutLabels(g.Config.Config.Labels) {
			continue
		}
		if s.imageUsed(g.Image, g.ID, false) != nil {
			continue
		}
		deleted, err := s.removeImage(r.Context(), g.Image, g.ID, true)
		if err != nil {
			return err
		}
		report.ImagesDeleted = append(report.ImagesDeleted, deleted...)
		report.SpaceReclaimed += uint64(g.Size)
	}
	s.event(events.ImageEventType, events.ActionPrune, "", map[string]string{"reclaimed": fmt.Sprint(report.SpaceReclaimed)})
	return ok(w, report)
}
