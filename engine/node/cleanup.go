package node

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/gantryhq/gantry/engine/node/volume"
)

// Cleanup removes what nodes of the data directory have left in the kernel: pinned
// namespaces and mounts. Containers must be gone before. The data of volumes stays.
func Cleanup(dataDir string) error {
	dir, err := filepath.Abs(dataDir)
	if err != nil {
		return fmt.Errorf("clean up node: %w", err)
	}
	p := paths{data: dir}
	for _, mounts := range []string{p.sandboxes(), p.pods(), p.memory()} {
		if err := volume.UnmountBelow(mounts); err != nil {
			return fmt.Errorf("clean up node: %w", err)
		}
	}
	if err := releaseAllIDs(idClaims, p.sandboxes()); err != nil {
		return fmt.Errorf("clean up node: %w", err)
	}
	for _, gone := range []string{p.sandboxes(), p.memory()} {
		if err := os.RemoveAll(gone); err != nil {
			return fmt.Errorf("clean up node: %w", err)
		}
	}
	return nil
}
