package launch

import (
	"encoding/json"
	"fmt"
	"sync"
	"unsafe"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/gantryhq/gantry/engine/node/seccomp"
)

// filters are compiled seccomp profiles. Most containers have the same.
type filters struct {
	mu       sync.Mutex
	compiled map[string]*filter              // by the profile as JSON
	shared   map[*specs.LinuxSeccomp]*filter // the same, by profiles that many containers share
}

type filter struct {
	code  []byte
	flags uint64
}

func newFilters() filters {
	return filters{compiled: map[string]*filter{}, shared: map[*specs.LinuxSeccomp]*filter{}}
}

// maxFilters bounds what profiles that pods bring along may occupy.
const maxFilters = 64

func (f *filters) compile(profile *specs.LinuxSeccomp) (*filter, error) {
	if profile == nil {
		return &filter{}, nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if known := f.shared[profile]; known != nil {
		return known, nil
	}
	if len(f.shared) >= maxFilters {
		clear(f.shared)
		clear(f.compiled)
	}
	key, err := json.Marshal(profile)
	if err != nil {
		return nil, err
	}
	known := f.compiled[string(key)]
	if known == nil {
		if known, err = compile(profile); err != nil {
			return nil, err
		}
		f.compiled[string(key)] = known
	}
	f.shared[profile] = known
	return known, nil
}

func compile(profile *specs.LinuxSeccomp) (*filter, error) {
	program, err := seccomp.Compile(profile)
	if err != nil {
		return nil, err
	}
	if len(program.Filter) == 0 {
		return nil, fmt.Errorf("compile seccomp profile: it came to nothing")
	}
	size := len(program.Filter) * int(unsafe.Sizeof(unix.SockFilter{}))
	code := unsafe.Slice((*byte)(unsafe.Pointer(&program.Filter[0])), size)
	return &filter{code: append([]byte(nil), code...), flags: uint64(program.Flags)}, nil
}
