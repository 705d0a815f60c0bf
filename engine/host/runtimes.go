package host

import (
	"fmt"
	"maps"
	"os/exec"
	"regexp"
	"slices"
	"strings"
)

// knownRuntimes are the programs with the command line of OCI runtimes that are
// looked for, by the RuntimeClass handler that stands for each. Kata Containers
// since version 2 has no such command line and cannot be one of them.
var knownRuntimes = map[string]string{"runc": "runc", "crun": "crun", "youki": "youki", "runsc": "runsc"}

var handlerName = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`)

// Runtimes finds the OCI runtimes of this machine: RuntimeClass handler to
// executable. What named says comes first and must exist; the rest is what is
// on the PATH.
func Runtimes(named map[string]string) (map[string]string, error) {
	found := map[string]string{}
	for handler, program := range knownRuntimes {
		if path, err := exec.LookPath(program); err == nil {
			found[handler] = path
		}
	}
	for _, handler := range slices.Sorted(maps.Keys(named)) {
		if !handlerName.MatchString(handler) || len(handler) > 63 {
			return nil, fmt.Errorf("name OCI runtime %q: a handler is made of lower-case letters, digits and '-', at most 63", handler)
		}
		path, err := exec.LookPath(named[handler])
		if err != nil {
			return nil, fmt.Errorf("find OCI runtime %q: %w: install it or correct its path", handler, err)
		}
		found[handler] = path
	}
	return found, nil
}

// runtimes says which OCI runtimes a RuntimeClass can choose.
func runtimes(string) (bool, string, string) {
	found, err := Runtimes(nil)
	if err != nil {
		return false, err.Error(), ""
	}
	names := slices.Sorted(maps.Keys(found))
	return true, strings.Join(append([]string{"gantry"}, names...), ", "), ""
}
