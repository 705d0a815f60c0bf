package network

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// sysctl is a kernel setting by its dotted name. In a name, "/" stands for a dot
// inside an interface name, as sysctl(8) has it.
type sysctl struct{ name, value string }

func (s sysctl) path() string {
	return filepath.Join("/proc/sys", strings.NewReplacer(".", "/", "/", ".").Replace(s.name))
}

// write sets it in the calling thread's network namespace.
func (s sysctl) write() error {
	// Not os.WriteFile: it truncates, which the kernel refuses for some settings.
	f, err := os.OpenFile(s.path(), os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("set %s: %w", s.name, err)
	}
	defer f.Close()
	if _, err := f.WriteString(s.value); err != nil {
		return fmt.Errorf("set %s to %q: %w", s.name, s.value, err)
	}
	return nil
}

// read returns the present value.
func (s sysctl) read() (string, error) {
	b, err := os.ReadFile(s.path())
	if err != nil {
		return "", fmt.Errorf("read %s: %w", s.name, err)
	}
	return strings.TrimSpace(string(b)), nil
}
