package build

import (
	"context"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
)

// A worker whose disk is full cannot even write down what it removes: what a failed step
// wrote would stay. It ends then and gives up its whole cache, which takes no space.

// fullDisk is how little free space counts as none, in bytes.
const fullDisk = 4 << 20

// fullPatience is how long BuildKit may take to make room by itself after a failure.
const fullPatience = 3 * time.Second

// fullGuard stops a worker that failed because its disk is full.
type fullGuard struct {
	dir  string
	stop func()
	full atomic.Bool // the cache must go
}

// unary watches calls that build.
func (g *fullGuard) unary(next grpc.UnaryServerInterceptor) grpc.UnaryServerInterceptor {
	return func(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
		resp, err := next(ctx, req, info, handler)
		if err != nil && isFull(g.dir) {
			go g.judge()
		}
		return resp, err
	}
}

func (g *fullGuard) judge() {
	for deadline := time.Now().Add(fullPatience); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		if !isFull(g.dir) {
			return
		}
	}
	g.full.Store(true)
	g.stop()
}

func isFull(dir string) bool {
	var fs unix.Statfs_t
	return unix.Statfs(dir, &fs) == nil && fs.Bavail*uint64(fs.Bsize) < fullDisk
}
