package shim

import (
	"context"
	"fmt"
	"os"

	"github.com/gantryhq/gantry/engine/shim/protocol"
)

// Keep has the shim hold open files by name, each in place of the one that it held under
// that name, until it ends. The caller's stay the caller's. No shim is an error.
func (c *Client) Keep(ctx context.Context, files map[string]*os.File) error {
	req := protocol.Request{Op: protocol.OpKeep}
	var list []*os.File
	for name, f := range files {
		req.Files, list = append(req.Files, name), append(list, f)
	}
	if _, _, err := c.ask(ctx, req, list...); err != nil {
		return fmt.Errorf("have files kept by the container shim: %w", err)
	}
	return nil
}

// Kept returns those of the named files that the shim holds; the caller closes them. No
// shim holds none.
func (c *Client) Kept(ctx context.Context, names ...string) (map[string]*os.File, error) {
	reply, files, err := c.ask(ctx, protocol.Request{Op: protocol.OpKept, Files: names})
	if unavailable(err) {
		return nil, nil
	}
	if err == nil && len(files) != len(reply.Files) {
		err = fmt.Errorf("%d descriptors came for %d files", len(files), len(reply.Files))
	}
	if err != nil {
		for _, f := range files {
			f.Close()
		}
		return nil, fmt.Errorf("ask the container shim for kept files: %w", err)
	}
	out := map[string]*os.File{}
	for i, name := range reply.Files {
		out[name] = files[i]
	}
	return out, nil
}

// ask sends one request to a shim that runs already.
func (c *Client) ask(ctx context.Context, req protocol.Request, files ...*os.File) (protocol.Reply, []*os.File, error) {
	conn, err := protocol.Dial(c.dir, protocol.SocketName)
	if err != nil {
		return protocol.Reply{}, nil, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	req.Version = protocol.Version
	if err := protocol.Write(conn, req, files...); err != nil {
		return protocol.Reply{}, nil, err
	}
	return receiveFiles(conn)
}
