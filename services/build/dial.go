package build

import (
	"context"
	"fmt"
	"net"
)

// Dial connects to the worker's BuildKit API, starting a worker when there is none. The
// connection is the caller's; while it is open the worker does not end.
func (c *Client) Dial(ctx context.Context) (net.Conn, error) {
	worker, err := c.connect(ctx)
	if err != nil {
		return nil, err
	}
	defer worker.Close() // it was only to see that the worker answers
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", c.paths.socket)
	if err != nil {
		return nil, fmt.Errorf("connect to the build worker: %w", err)
	}
	return conn, nil
}
