package ocispec

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"

	contribapparmor "github.com/containerd/containerd/v2/contrib/apparmor"
	"github.com/containerd/containerd/v2/contrib/seccomp"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/pkg/apparmor"
	"github.com/containerd/containerd/v2/pkg/cap"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/gantryhq/gantry/engine/node/runtime"
)

// appArmorProfile is the profile that containers get by default on hosts with
// AppArmor: containerd's.
const appArmorProfile = "gantry-default"

// baseline is what containers get by default, found out once per process.
type baseline struct {
	caps          []string // default capabilities
	available     []string // capabilities this process can give away
	maskedPaths   []string
	readonlyPaths []string
	rlimits       []specs.POSIXRlimit
	lowestOOM     int // lowest oom_score_adj this process may set
	loadAppArmor  func() error
	profiles      *sync.Map // default seccomp profiles by capabilities
}

// newBaseline takes containerd's defaults and what this process is allowed.
func newBaseline() (baseline, error) {
	b := baseline{profiles: &sync.Map{}}
	ctx := namespaces.WithNamespace(context.Background(), "gantry")
	spec, err := oci.GenerateSpec(ctx, nil, &containers.Container{ID: "default"})
	if err != nil {
		return b, fmt.Errorf("read containerd's default specification: %w", err)
	}
	b.caps = spec.Process.Capabilities.Bounding
	b.maskedPaths = spec.Linux.MaskedPaths
	b.readonlyPaths = spec.Linux.ReadonlyPaths
	if b.available, err = cap.Current(); err != nil {
		return b, fmt.Errorf("read own capabilities: %w", err)
	}
	files, err := openFiles()
	if err != nil {
		return b, fmt.Errorf("read own limits: %w", err)
	}
	b.rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: files, Hard: files}}
	b.lowestOOM = -1000
	if !slices.Contains(b.available, "CAP_SYS_RESOURCE") {
		text, err := os.ReadFile("/proc/self/oom_score_adj")
		if err != nil {
			return b, err
		}
		if b.lowestOOM, err = strconv.Atoi(strings.TrimSpace(string(text))); err != nil {
			return b, err
		}
	}
	b.loadAppArmor = sync.OnceValue(func() error { return contribapparmor.LoadDefaultProfile(appArmorProfile) })
	return b, nil
}

// limits are the default ones with those that a container has instead.
func (b *baseline) limits(own []runtime.Rlimit) []specs.POSIXRlimit {
	if len(own) == 0 {
		return b.rlimits
	}
	all := slices.Clone(b.rlimits)
	for _, l := range own {
		all = slices.DeleteFunc(all, func(o specs.POSIXRlimit) bool { return o.Type == l.Name })
		all = append(all, specs.POSIXRlimit{Type: l.Name, Soft: l.Soft, Hard: l.Hard})
	}
	return all
}

// oomScoreAdj is best effort: without CAP_SYS_RESOURCE nobody may go below his own.
func (b *baseline) oomScoreAdj(wanted int) *int {
	score := max(wanted, b.lowestOOM)
	return &score
}

// capabilities resolves a security context as Kubernetes and Docker do: additions
// to the default set first, then removals, ALL before single names.
func (b *baseline) capabilities(s *runtime.Security) (*specs.LinuxCapabilities, error) {
	set := slices.Clone(b.caps)
	if s.Privileged {
		set = slices.Clone(b.available)
	}
	add, err := capabilityNames(s.AddCapabilities)
	if err != nil {
		return nil, err
	}
	drop, err := capabilityNames(s.DropCapabilities)
	if err != nil {
		return nil, err
	}
	if slices.Contains(add, "CAP_ALL") {
		set = slices.Clone(b.available)
	}
	if slices.Contains(drop, "CAP_ALL") {
		set = nil
	}
	for _, name := range add {
		if name != "CAP_ALL" && !slices.Contains(set, name) {
			set = append(set, name)
		}
	}
	set = slices.DeleteFunc(set, func(name string) bool {
		return slices.Contains(drop, name) || !slices.Contains(b.available, name)
	})
	return &specs.LinuxCapabilities{Bounding: set, Effective: set, Permitted: set}, nil
}

// capabilityNames brings names into the form that the OCI specification uses.
func capabilityNames(names []string) ([]string, error) {
	var out []string
	for _, name := range names {
		full := "CAP_" + strings.TrimPrefix(strings.ToUpper(name), "CAP_")
		if full != "CAP_ALL" && !slices.Contains(cap.Known(), full) {
			return nil, fmt.Errorf("capability %q: there is none of that name", name)
		}
		out = append(out, full)
	}
	return out, nil
}

// secure fills in the confinement. Capabilities must be set: they open parts of
// the default seccomp profile.
func (b *baseline) secure(s *specs.Spec, sec *runtime.Security) error {
	if !sec.Privileged && !sec.UnmaskedProc {
		s.Linux.MaskedPaths, s.Linux.ReadonlyPaths = b.maskedPaths, b.readonlyPaths
	}
	if err := b.confineAppArmor(s, sec); err != nil {
		return err
	}
	switch {
	case sec.Privileged || sec.SeccompUnconfined:
	case sec.SeccompProfile == "":
		s.Linux.Seccomp = b.defaultSeccomp(s)
	default:
		text, err := os.ReadFile(sec.SeccompProfile)
		if err != nil {
			return fmt.Errorf("read seccomp profile: %w", err)
		}
		s.Linux.Seccomp = &specs.LinuxSeccomp{}
		if err := json.Unmarshal(text, s.Linux.Seccomp); err != nil {
			return fmt.Errorf("read seccomp profile %q: %w", sec.SeccompProfile, err)
		}
	}
	return nil
}

// defaultSeccomp is containerd's default profile. It depends on the capabilities
// only, so containers with the same share one, which nobody may change.
func (b *baseline) defaultSeccomp(s *specs.Spec) *specs.LinuxSeccomp {
	key := strings.Join(s.Process.Capabilities.Bounding, " ")
	if known, ok := b.profiles.Load(key); ok {
		return known.(*specs.LinuxSeccomp)
	}
	profile, _ := b.profiles.LoadOrStore(key, withoutX32(seccomp.DefaultProfile(s)))
	return profile.(*specs.LinuxSeccomp)
}

// withoutX32 takes the x32 ABI out of a profile, so that its calls are refused.
// Nothing is distributed for it and few kernels have it, but libseccomp compiles
// the whole profile once more for it: a sixth of the CPU time of a start.
func withoutX32(profile *specs.LinuxSeccomp) *specs.LinuxSeccomp {
	profile.Architectures = slices.DeleteFunc(profile.Architectures, func(a specs.Arch) bool { return a == specs.ArchX32 })
	return profile
}

func (b *baseline) confineAppArmor(s *specs.Spec, sec *runtime.Security) error {
	switch profile := sec.AppArmorProfile; {
	case profile == "unconfined", sec.Privileged && profile == "":
		return nil
	case !apparmor.HostSupports():
		if profile != "" {
			return fmt.Errorf("AppArmor profile %q: this host has no AppArmor", profile)
		}
		return nil
	case profile != "":
		s.Process.ApparmorProfile = profile
		return nil
	}
	if err := b.loadAppArmor(); err != nil {
		return fmt.Errorf("load default AppArmor profile: %w", err)
	}
	s.Process.ApparmorProfile = appArmorProfile
	return nil
}
