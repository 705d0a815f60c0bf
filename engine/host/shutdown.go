package host

import (
	"context"
	"os"
	"os/exec"
	"strings"
)

// ShuttingDown reports whether the machine is on its way to a halt or a reboot, as far as
// systemd says so: elsewhere nobody can be asked.
func ShuttingDown(ctx context.Context) bool {
	if _, err := os.Stat("/run/systemd/system"); err != nil { // as sd_booted(3)
		return false
	}
	out, _ := exec.CommandContext(ctx, "systemctl", "is-system-running").Output() // fails for all states but one
	return strings.TrimSpace(string(out)) == "stopping"
}
