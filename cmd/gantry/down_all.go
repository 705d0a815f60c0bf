package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gantryhq/gantry/engine/image"
	"github.com/gantryhq/gantry/engine/network"
	"github.com/gantryhq/gantry/engine/node"
	"github.com/gantryhq/gantry/engine/node/driver"
	"github.com/gantryhq/gantry/internal/atomicfile"
	"github.com/gantryhq/gantry/internal/hint"
	"github.com/gantryhq/gantry/internal/process"
	"github.com/gantryhq/gantry/services/build"
)

// drainTime is how long `gantry serve` and the gateway may take to end by themselves.
const drainTime = 15 * time.Second

// serveRecord is DataDir/run/serve.json: the process that serves the directory.
func serveRecord(dataDir string) string { return filepath.Join(dataDir, "run", "serve.json") }

// recordServe lets `gantry down --all` find this process.
func recordServe(dataDir string) error {
	self, err := process.Find(os.Getpid())
	if err != nil {
		return err
	}
	return writeRecord(serveRecord(dataDir), self)
}

// writeRecord replaces a record in one step: a reader, also the next process after
// a crash, finds the old one or the new one.
func writeRecord(path string, record any) error {
	data, err := json.Marshal(record)
	if err != nil {
		return err
	}
	return atomicfile.Write(path, data, 0o600)
}

// downAll stops an instance and removes every trace of it from the kernel: first
// who would start things again, then what runs, then what it ran on. The data
// directory stays.
func downAll(ctx context.Context, g *globals) error {
	if err := sameInstance(g); err != nil {
		return err
	}
	dir, err := filepath.Abs(g.dir())
	if err != nil {
		return fmt.Errorf("resolve data directory: %w", err)
	}
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("there is no data directory %s: nothing to stop", dir)
	}
	if err := stopServe(ctx, dir); err != nil {
		return fmt.Errorf("stop gantry serve: %w", err)
	}
	if err := stopGateway(ctx, dir); err != nil {
		return fmt.Errorf("stop the gateway: %w", err)
	}
	worker, err := build.NewClient(build.ClientConfig{DataDir: dir})
	if err != nil {
		return err
	}
	if err := worker.Stop(ctx); err != nil {
		return fmt.Errorf("stop the build worker: %w", err)
	}
	if err := driver.Cleanup(ctx, driver.Config{DataDir: dir}); err != nil {
		return fmt.Errorf("stop the containers: %w", err)
	}
	if err := node.Cleanup(dir); err != nil {
		return fmt.Errorf("clean up after the node: %w", err)
	}
	if err := image.Cleanup(dir); err != nil {
		return fmt.Errorf("unmount the containers' roots: %w", err)
	}
	if err := network.Cleanup(dir); err != nil {
		return fmt.Errorf("clean up the network: %w", err)
	}
	return nil
}

// sameInstance refuses when the default directory would be taken down although
// the kubeconfig in use means something else: every other command follows that.
func sameInstance(g *globals) error {
	kubeconfig := g.kubeconfig
	if kubeconfig == "" {
		kubeconfig = os.Getenv("KUBECONFIG")
	}
	if g.dataDir != "" || kubeconfig == "" {
		return nil
	}
	dir, err := filepath.Abs(filepath.Dir(kubeconfig))
	if err != nil || dir == defaultDataDir {
		return err
	}
	return hint.Wrap(fmt.Errorf("%s would be stopped, but the kubeconfig in use is %s", defaultDataDir, kubeconfig),
		"say which is meant: gantry down --all --data-dir %s", dir)
}

func stopServe(ctx context.Context, dir string) error {
	var h process.Handle
	if err := readRecord(serveRecord(dir), &h); err != nil {
		return err
	}
	return end(ctx, h, unix.SIGTERM, serveRecord(dir))
}

func stopGateway(ctx context.Context, dir string) error {
	g := gatewayProcess{dir: filepath.Join(dir, "run")}
	var r gatewayRecord
	if err := readRecord(g.recordPath(), &r); err != nil {
		return err
	}
	for _, old := range r.Draining {
		if err := end(ctx, old, unix.SIGINT, g.recordPath()); err != nil { // not for clients that may come back
			return err
		}
	}
	return end(ctx, r.Process, unix.SIGTERM, g.recordPath())
}

// readRecord leaves into as it is when there is no record.
func readRecord(path string, into any) error {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, into); err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	return nil
}

// end asks a process to end, makes it after drainTime, and removes its record.
func end(ctx context.Context, h process.Handle, ask unix.Signal, record string) error {
	if err := h.Signal(ask); err != nil {
		return err
	}
	patience, cancel := context.WithTimeout(ctx, drainTime)
	defer cancel()
	if err := h.Wait(patience); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err := h.Signal(unix.SIGKILL); err != nil {
			return err
		}
		if err := h.Wait(ctx); err != nil {
			return err
		}
	}
	if err := os.Remove(record); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
