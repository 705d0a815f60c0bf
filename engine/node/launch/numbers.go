package launch

import (
	"fmt"
	"slices"
	"sync"

	"github.com/containerd/containerd/v2/pkg/cap"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/gantryhq/gantry/engine/shim/recipe"
)

// rlimitNames are the names of resource limits, in the kernel's order.
var rlimitNames = []string{
	"RLIMIT_CPU", "RLIMIT_FSIZE", "RLIMIT_DATA", "RLIMIT_STACK", "RLIMIT_CORE", "RLIMIT_RSS", "RLIMIT_NPROC", "RLIMIT_NOFILE",
	"RLIMIT_MEMLOCK", "RLIMIT_AS", "RLIMIT_LOCKS", "RLIMIT_SIGPENDING", "RLIMIT_MSGQUEUE", "RLIMIT_NICE", "RLIMIT_RTPRIO", "RLIMIT_RTTIME",
}

func rlimits(list []specs.POSIXRlimit) (out []recipe.Rlimit, err error) {
	for _, l := range list {
		number := slices.Index(rlimitNames, l.Type)
		if number < 0 {
			return nil, fmt.Errorf("resource limit %q: there is none of that name", l.Type)
		}
		out = append(out, recipe.Rlimit{Resource: uint64(number), Soft: l.Soft, Hard: l.Hard})
	}
	return out, nil
}

// capabilityNumbers are the kernel's numbers of capabilities by their names.
var capabilityNumbers = sync.OnceValue(func() map[string]int {
	numbers := map[string]int{}
	for n := range 64 {
		if name := cap.FromNumber(n); name != "" {
			numbers[name] = n
		}
	}
	return numbers
})

func capabilities(c *specs.LinuxCapabilities) (out recipe.Capabilities, err error) {
	if c == nil {
		return out, nil
	}
	for _, set := range []struct {
		names []string
		bits  *uint64
	}{
		{c.Bounding, &out.Bounding}, {c.Permitted, &out.Permitted}, {c.Effective, &out.Effective},
		{c.Inheritable, &out.Inheritable}, {c.Ambient, &out.Ambient},
	} {
		for _, name := range set.names {
			number, ok := capabilityNumbers()[name]
			if !ok {
				return out, fmt.Errorf("capability %q: there is none of that name", name)
			}
			*set.bits |= 1 << number
		}
	}
	return out, nil
}
