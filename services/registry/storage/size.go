package storage

import (
	"path"

	"github.com/opencontainers/go-digest"
)

// Size is how many blobs there are, manifests among them, and their bytes: each once, whoever has it. It
// reads every name, so it is for now and then.
func (s *Store) Size() (blobs int, bytes int64, err error) {
	for _, a := range []digest.Algorithm{digest.SHA256, digest.SHA512} {
		root := path.Join("blobs", a.String())
		prefixes, err := s.files.children(root)
		if err != nil {
			return 0, 0, err
		}
		for _, p := range prefixes {
			err := s.files.each(path.Join(root, p), "data", func(_ string, i info) error {
				blobs++
				bytes += i.size
				return nil
			})
			if err != nil {
				return 0, 0, err
			}
		}
	}
	return blobs, bytes, nil
}
