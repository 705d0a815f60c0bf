package controllers

import (
	"context"
	"sync"

	"k8s.io/client-go/util/workqueue"
)

// serveQueue calls step with each item of a queue until ctx ends. An item
// whose step answers an error comes back later; reporting the error is step's.
func serveQueue[T comparable](ctx context.Context, q workqueue.TypedRateLimitingInterface[T], workers int, step func(context.Context, T) error) {
	var working sync.WaitGroup
	for range workers {
		working.Go(func() {
			for {
				item, shutdown := q.Get()
				if shutdown {
					return
				}
				if err := step(ctx, item); err != nil {
					q.AddRateLimited(item)
				} else {
					q.Forget(item)
				}
				q.Done(item)
			}
		})
	}
	<-ctx.Done()
	q.ShutDown()
	working.Wait()
}
