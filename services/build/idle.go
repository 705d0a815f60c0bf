package build

import (
	"context"
	"sync"
	"time"

	"google.golang.org/grpc/stats"
)

// idleTimer calls stop when no call has been in progress for a while. It
// watches a gRPC server as its stats handler.
type idleTimer struct {
	after time.Duration
	stop  func()

	mu    sync.Mutex
	calls int         // guarded by mu
	timer *time.Timer // guarded by mu; running while calls is 0
}

func newIdleTimer(after time.Duration, stop func()) *idleTimer {
	i := &idleTimer{after: after, stop: stop}
	i.timer = time.AfterFunc(after, i.expire)
	return i
}

func (i *idleTimer) expire() {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.calls == 0 {
		i.stop()
	}
}

// HandleRPC counts calls, streams included.
func (i *idleTimer) HandleRPC(_ context.Context, s stats.RPCStats) {
	i.mu.Lock()
	defer i.mu.Unlock()
	switch s.(type) {
	case *stats.Begin:
		i.calls++
		i.timer.Stop()
	case *stats.End:
		if i.calls--; i.calls == 0 {
			i.timer.Reset(i.after)
		}
	}
}

// TagRPC, TagConn and HandleConn have nothing to do.
func (i *idleTimer) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context   { return ctx }
func (i *idleTimer) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }
func (i *idleTimer) HandleConn(context.Context, stats.ConnStats)                       {}
