package node

import (
	"context"
	"strings"
	"time"

	"github.com/gantryhq/gantry/engine/node/logs"
)

// rotateLogs keeps the logs of running containers within their bounds. A stat
// per container is all it costs while they are.
func (n *Node) rotateLogs(ctx context.Context) {
	t := time.NewTicker(logRotationEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		for _, w := range n.allWorkers() {
			for path, id := range w.openLogs() {
				reopen := func() error { return n.cfg.Driver.ReopenLog(ctx, id) }
				if err := logs.Rotate(path, time.Now(), reopen); err != nil && ctx.Err() == nil {
					w.log.Warn("rotate log", "error", err)
				}
			}
		}
	}
}

// openLogs returns the log files of running containers with the containers' ids.
func (w *worker) openLogs() map[string]string {
	w.mu.Lock()
	defer w.mu.Unlock()
	out := map[string]string{}
	for name, cv := range w.v.Containers {
		if cv.running() {
			out[w.n.paths.log(w.pod, name, cv.Last.Attempt)] = cv.Last.ID
		}
	}
	return out
}

func cutLast(s, sep string) (before, after string, ok bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(sep):], true
}
