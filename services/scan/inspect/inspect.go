// Package inspect reads an image's layers and says what is in them: packages of the
// operating system and of languages, secrets, programs that run with another user's
// rights.
//
// Layers are read as streams, once, from the lowest up; nothing is unpacked. Of each
// file only what a detector wants is held, small files in memory, large ones one at a
// time in a temporary file. So what an image may claim costs little: paths that climb
// out of the image stay names, links are never followed, devices are ignored, and
// [Options] limits how many bytes, files and findings one image may have; beyond that
// the image is refused with [ErrTooLarge] rather than reported in part.
//
// The detectors parse hostile input. Callers run them in a process that may fail.
// services/scan imports this package.
package inspect

import (
	"context"
	"errors"
	"fmt"
	"os"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/gantryhq/gantry/services/scan/report"
)

// ErrTooLarge is returned for an image that claims to be larger than is looked at.
var ErrTooLarge = errors.New("the image is too large to be scanned")

// Options limit what is read. Zero values mean the defaults.
type Options struct {
	TempDir          string // for files that do not fit into memory; "" means the system's
	MaxUnpackedBytes int64  // of all layers together, default 32 GiB
	MaxFiles         int    // entries of all layers together, default 5 million
	MaxFileBytes     int64  // a larger file is noted and passed over, default 1 GiB

	// Layer, when not nil, is called as each of so many layers is begun.
	Layer func(n, of int)
}

func (o Options) withDefaults() Options {
	if o.TempDir == "" {
		o.TempDir = os.TempDir()
	}
	if o.MaxUnpackedBytes == 0 {
		o.MaxUnpackedBytes = 32 << 30
	}
	if o.MaxFiles == 0 {
		o.MaxFiles = 5_000_000
	}
	if o.MaxFileBytes == 0 {
		o.MaxFileBytes = 1 << 30
	}
	return o
}

// Found is what is in an image.
type Found struct {
	OS       string
	Layers   []report.Layer
	Packages []report.Package
	Secrets  []Secret
	Setuid   []Setuid
	Notes    []string
}

// Secret is a credential in a layer.
type Secret struct {
	Kind    string // "private key"
	Path    string
	Line    int
	Layer   int
	Deleted bool // a later layer has deleted or replaced the file
}

// Setuid is a program that runs with the rights of its owner or group.
type Setuid struct {
	Path  string
	Mode  string // "setuid", "setgid" or both
	Layer int
}

// Image reads all layers of an image.
func Image(ctx context.Context, img v1.Image, options Options) (*Found, error) {
	config, err := img.ConfigFile()
	if err != nil {
		return nil, fmt.Errorf("read the image's configuration: %w", err)
	}
	layers, err := img.Layers()
	if err != nil {
		return nil, fmt.Errorf("read the image's layers: %w", err)
	}
	s := newScan(options.withDefaults())
	for i, l := range layers {
		if s.Layer != nil {
			s.Layer(i+1, len(layers))
		}
		digest, err := l.Digest()
		if err != nil {
			return nil, fmt.Errorf("read layer %d: %w", i+1, err)
		}
		if err := s.layer(ctx, i, l); err != nil {
			return nil, fmt.Errorf("read layer %d of %d (%s): %w", i+1, len(layers), short(digest), err)
		}
		s.found.Layers = append(s.found.Layers, report.Layer{Digest: digest.String(), CreatedBy: createdBy(config, i)})
	}
	return s.finish(), nil
}

// createdBy is the command that made the nth layer.
func createdBy(config *v1.ConfigFile, n int) string {
	for _, h := range config.History {
		if h.EmptyLayer {
			continue
		}
		if n == 0 {
			return h.CreatedBy
		}
		n--
	}
	return ""
}

func short(h v1.Hash) string { return h.Algorithm + ":" + h.Hex[:min(12, len(h.Hex))] }
