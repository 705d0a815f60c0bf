package node

import (
	"context"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/gantryhq/gantry/engine/node/runtime"
)

// orphanRetry is how long the removal of an orphan that failed is left alone.
const orphanRetry = 10 * time.Second

// removeOrphans removes what belongs to no pod of the API: containers, sandboxes
// and directories of pods that were deleted while nobody looked. It returns when
// there are none, or ctx ends.
func (n *Node) removeOrphans(ctx context.Context) {
	orphans := n.takeOrphans()
	n.unmountRoots(ctx, func(id string) bool {
		uid, isVolume := imageVolumePod(id)
		_, orphaned := orphans[uid]
		return isVolume && orphaned
	})
	n.removeOrphanLogs()
	for {
		for uid, states := range orphans {
			if err := n.removeOrphan(ctx, uid, states); err == nil {
				delete(orphans, uid)
			} else if ctx.Err() == nil {
				n.log.Warn("remove orphaned pod; trying again", "uid", uid, "error", err)
			}
		}
		if len(orphans) == 0 {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(orphanRetry):
		}
	}
}

// takeOrphans finds pods without a worker by their containers and directories: a
// process that was killed while it made or removed one may have left any of them.
func (n *Node) takeOrphans() map[types.UID][]runtime.State {
	n.mu.Lock()
	defer n.mu.Unlock()
	orphans := n.found
	n.found = map[types.UID][]runtime.State{}
	for _, dir := range []string{n.paths.pods(), n.paths.sandboxes(), n.paths.memory()} {
		entries, _ := os.ReadDir(dir)
		for _, e := range entries {
			if uid := types.UID(e.Name()); orphans[uid] == nil && n.workers[uid] == nil {
				orphans[uid] = nil
			}
		}
	}
	return orphans
}

func (n *Node) removeOrphan(ctx context.Context, uid types.UID, states []runtime.State) error {
	ids := make([]string, len(states))
	for i, st := range states {
		ids[i] = st.ID
	}
	if err := n.tearDown(ctx, &v1.Pod{ObjectMeta: metav1.ObjectMeta{UID: uid}}, ids); err != nil {
		return err
	}
	return os.RemoveAll(n.paths.pod(uid))
}

// ourRoot matches the ids that [containerID] makes; other roots in the store are
// not the node's business.
var ourRoot = regexp.MustCompile(`^[a-z0-9-]+-[0-9a-f]{8}-[0-9]+$`)

// removeOrphanRoots unmounts root directories of containers that do not exist: a
// process that was killed between mount and start leaves one. It must run before
// any worker, which may be about to use the same id again.
func (n *Node) removeOrphanRoots(ctx context.Context, states []runtime.State) {
	wanted := map[string]bool{}
	for _, st := range states {
		wanted[st.ID] = true
	}
	n.unmountRoots(ctx, func(id string) bool { return ourRoot.MatchString(id) && !wanted[id] })
}

func (n *Node) unmountRoots(ctx context.Context, which func(id string) bool) {
	roots, err := n.cfg.Images.Roots(ctx)
	if err != nil {
		n.log.Warn("list root directories", "error", err)
		return
	}
	for _, r := range roots {
		if !which(r.ID) {
			continue
		}
		if err := n.cfg.Images.Unmount(ctx, r.ID); err != nil && ctx.Err() == nil {
			n.log.Warn("unmount orphaned root directory", "id", r.ID, "error", err)
		}
	}
}

// removeOrphanLogs removes the logs of pods that are no more.
func (n *Node) removeOrphanLogs() {
	entries, _ := os.ReadDir(n.paths.logs())
	for _, e := range entries {
		_, uid, ok := cutLast(e.Name(), "_")
		if ok && n.worker(types.UID(uid)) == nil {
			dir := filepath.Join(n.paths.logs(), e.Name())
			n.cfg.BeforeLogsGo(dir)
			if err := os.RemoveAll(dir); err != nil {
				n.log.Warn("remove logs of a pod that is gone", "error", err)
			}
		}
	}
}

func cutLast(s, sep string) (before, after string, ok bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(sep):], true
}
