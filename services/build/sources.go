package build

import (
	"context"
	"errors"

	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/solver"
	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/buildkit/source"
	"github.com/moby/buildkit/source/http"
	"github.com/moby/buildkit/worker/base"

	"github.com/gantryhq/gantry/services/build/sandbox"
)

// confineSources lets the worker fetch for a Dockerfile only what its steps could
// fetch: by HTTP from the outside. Git it leaves to the steps, because the program
// would run with the host's network.
func confineSources(w *base.Worker, s *sandbox.Sandbox) error {
	guarded, err := http.NewSource(http.Opt{CacheAccessor: w.CacheMgr, Transport: s.Transport()})
	if err != nil {
		return err
	}
	w.SourceManager.Register(guarded)
	w.HTTPSource = guarded
	w.SourceManager.Register(noGit{})
	w.GitSource = nil
	return nil
}

var errNoGit = errors.New("a Git repository cannot be added or built from by its address: use RUN git clone, a checkout as the build context, or a Pipeline")

// noGit refuses repositories as sources.
type noGit struct{}

func (noGit) Schemes() []string { return []string{"git"} }

func (noGit) Identifier(string, string, map[string]string, *pb.Platform) (source.Identifier, error) {
	return nil, errNoGit
}

func (noGit) Resolve(context.Context, source.Identifier, *session.Manager, solver.Vertex) (source.SourceInstance, error) {
	return nil, errNoGit
}
