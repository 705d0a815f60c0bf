package testenv

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// Programs is the environment variable that names a directory of programs which were
// built elsewhere, for a machine that has no Go.
const Programs = "GANTRY_TEST_PROGRAMS"

// Build builds the static program of a package as the file out, with further
// environment. Where [Programs] names a directory, the program of that name is taken.
func Build(out, source string, env ...string) error {
	if dir := os.Getenv(Programs); dir != "" {
		text, err := os.ReadFile(filepath.Join(dir, filepath.Base(out)))
		if err != nil {
			return fmt.Errorf("take a program from %s: %w", Programs, err)
		}
		return os.WriteFile(out, text, 0o755)
	}
	c := exec.Command("go", "build", "-ldflags", "-s -w", "-o", out, source)
	c.Env = append(append(os.Environ(), "CGO_ENABLED=0"), env...)
	if text, err := c.CombinedOutput(); err != nil {
		return fmt.Errorf("build %s: %w: %s", filepath.Base(out), err, text)
	}
	return nil
}
