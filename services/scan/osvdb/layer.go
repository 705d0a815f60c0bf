package osvdb

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"hash"
	"io"
	"os"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/zstd"
)

// layer is a packed database on disk, as the registry's client wants to see it.
type layer struct {
	path           string
	digest, diffID v1.Hash
	size           int64
}

// pack compresses a file beside it.
func pack(path string) (l *layer, err error) {
	in, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer in.Close()
	l = &layer{path: path + ".zst"}
	out, err := os.Create(l.path)
	if err != nil {
		return nil, err
	}
	packed, plain := sha256.New(), sha256.New()
	z, err := zstd.NewWriter(io.MultiWriter(out, packed), zstd.WithEncoderConcurrency(1))
	if err == nil {
		_, err = io.Copy(io.MultiWriter(z, plain), in)
		err = errors.Join(err, z.Close())
	}
	if err == nil {
		l.size, err = out.Seek(0, io.SeekCurrent)
	}
	if err := errors.Join(err, out.Close()); err != nil {
		_ = os.Remove(l.path) // half a file; the error says why
		return nil, err
	}
	l.digest, l.diffID = digestOf(packed), digestOf(plain)
	return l, nil
}

func digestOf(h hash.Hash) v1.Hash {
	return v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(h.Sum(nil))}
}

func (l *layer) Digest() (v1.Hash, error)             { return l.digest, nil }
func (l *layer) DiffID() (v1.Hash, error)             { return l.diffID, nil }
func (l *layer) Size() (int64, error)                 { return l.size, nil }
func (l *layer) MediaType() (types.MediaType, error)  { return layerType, nil }
func (l *layer) Compressed() (io.ReadCloser, error)   { return os.Open(l.path) }
func (l *layer) Uncompressed() (io.ReadCloser, error) { return nil, errors.ErrUnsupported }
