package image

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Nearly every container has the same few things mounted into its root. Where an
// image has no place for one of them, the place would be made in each container's
// writable layer: on disk, with the directories above copied up. Instead the
// lowest layer of every root has them all, and the image's own files, which are
// above it, count as ever.
//
// A set of places is a directory that never changes: containers that run stand on it.
const (
	placesVersion = "1" // of what is in the sets; another version gets directories of its own

	placesAlways = "always"  // what every container has
	placesVarRun = "var-run" // and a place for the service account's token
	placesRun    = "run"     // the same for an image whose /var/run is a link to /run
)

// tokenTarget is where admission has the service account's token mounted.
const tokenTarget = "/var/run/secrets/kubernetes.io/serviceaccount"

// placeDirs and placeFiles are what a set has, besides the place for the token.
var (
	placeDirs  = []string{"dev", "etc", "proc", "sys"}
	placeFiles = []string{"etc/hosts", "etc/hostname", "etc/resolv.conf"}
)

// placesDir is the layer of a set.
func (s *Store) placesDir(set string) string {
	return filepath.Join(s.dir, "places", placesVersion, set)
}

// makePlaces makes the sets, or completes them.
func (s *Store) makePlaces() error {
	if err := os.MkdirAll(s.placesDir(""), 0o711); err != nil {
		return fmt.Errorf("make places for mounts: %w", err)
	}
	for set, token := range map[string]string{placesAlways: "", placesVarRun: "var/run", placesRun: "run"} {
		dirs := slices.Clone(placeDirs)
		if token != "" {
			for dir := filepath.Join(token, "secrets/kubernetes.io/serviceaccount"); dir != "."; dir = filepath.Dir(dir) {
				dirs = append(dirs, dir)
			}
		}
		slices.Sort(dirs) // a directory before what is in it
		if err := makeTree(s.placesDir(set), dirs, placeFiles); err != nil {
			return fmt.Errorf("make places for mounts: %w", err)
		}
	}
	return nil
}

// makeTree makes directories and empty files as the launcher makes missing places,
// whatever the umask.
func makeTree(top string, dirs, files []string) error {
	for _, dir := range append([]string{""}, dirs...) {
		path := filepath.Join(top, dir)
		if err := os.Mkdir(path, 0o755); err == nil {
			err = os.Chmod(path, 0o755)
			if err != nil {
				return err
			}
		} else if !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	for _, file := range files {
		path := filepath.Join(top, file)
		f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o644)
		if err != nil {
			return err
		}
		if err := errors.Join(f.Chmod(0o644), f.Close()); err != nil {
			return err
		}
	}
	return nil
}

// placesFor chooses the set for a container that will have something mounted at
// these targets, on these layers, topmost first.
func placesFor(layers, targets []string) string {
	token := slices.ContainsFunc(targets, func(t string) bool { return filepath.Clean(t) == tokenTarget })
	switch {
	case !token:
		return placesAlways
	case linksToRun(layers):
		return placesRun
	}
	return placesVarRun
}

// linksToRun reports whether /var/run of an image is a link to /run. When in doubt
// it is not: then a place may be missing, and is made in the writable layer.
func linksToRun(layers []string) bool {
	for _, layer := range layers {
		target, err := readLinkBeneath(layer, "var/run")
		switch {
		case err == nil:
			return target == "/run" || strings.TrimSuffix(target, "/") == "../run"
		case !errors.Is(err, unix.ENOENT):
			return false // a directory, removed, or somewhere else
		}
	}
	return false
}

// readLinkBeneath reads a link without following any on the way. EINVAL means that
// it is something else.
func readLinkBeneath(dir, path string) (string, error) {
	top, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	defer unix.Close(top)
	parent, err := unix.Openat2(top, filepath.Dir(path), &unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS,
	})
	if err != nil {
		return "", err
	}
	defer unix.Close(parent)
	b := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(parent, filepath.Base(path), b)
	if err != nil {
		return "", err
	}
	return string(b[:n]), nil
}
