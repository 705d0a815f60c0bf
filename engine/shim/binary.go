package shim

import (
	"embed"
	"errors"
	"fmt"
	"io/fs"
)

//go:embed embedded
var embedded embed.FS

// Binary returns the shim's executable, when this program was built with it.
func Binary() ([]byte, error) {
	b, err := embedded.ReadFile("embedded/gantry-shim")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errors.New("this gantry was built without the container shim: build it with `make build`")
	}
	if err != nil {
		return nil, fmt.Errorf("read embedded shim: %w", err)
	}
	return b, nil
}
