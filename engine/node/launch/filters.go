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
	compiled map[string]*filter
}

type filter struct {
	code  []byte
	flags uint64
}

func newFilters() filters { return filters{compiled: map[string]*filter{}} }

// maxFilters bounds what profiles that pods bring along may occupy.
const maxFilters = 64

func (f *filters) compile(profile *specs.LinuxSeccomp) (*filter, error) {
	if profile == nil {
		return &filter{}, nil
	}
	key, err := json.Marshal(profile)
	if err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if known := f.compiled[string(key)]; known != nil {
		return known, nil
	}
	program, err := seccomp.Compile(profile)
	if err != nil {
		return nil, err
	}
	if len(program.Filter) == 0 {
		return nil, fmt.Errorf("compile seccomp profile: it came to nothing")
	}
	size := len(program.Filter) * int(unsafe.Sizeof(unix.SockFilter{}))
	code := unsafe.Slice((*byte)(unsafe.Pointer(&program.Filter[0])), size)
	done := &filter{code: append([]byte(nil), code...), flags: uint64(program.Flags)}
	if len(f.compiled) >= maxFilters {
		clear(f.compiled)
	}
	f.compiled[string(key)] = done
	return done, nil
}
