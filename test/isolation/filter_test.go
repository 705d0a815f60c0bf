package isolation

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/gantryhq/gantry/test/isolation/filter"
)

// unknownToReference is the oldest call that libseccomp 2.5.4 with the tables of
// Debian 12 does not know. Newer ones
// are compared in engine/node/seccomp, with equal tables.
const unknownToReference = 457

// answers is what the filter of a process says to every call, as one finding for
// each architecture and kind of arguments.
func answers(t *testing.T, pid int) map[string]string {
	t.Helper()
	report := map[string]string{}
	filters, err := filter.Installed(pid)
	if errors.Is(err, filter.ErrNone) {
		return map[string]string{"filters": "none"}
	}
	if err != nil {
		t.Fatal(err)
	}
	report["filters"] = fmt.Sprint(len(filters))
	for _, audit := range []uint32{unix.AUDIT_ARCH_X86_64, unix.AUDIT_ARCH_I386, unix.AUDIT_ARCH_AARCH64} {
		for _, value := range []uint64{0, 1, 2, 8, 16, 38, 40, 0x20000, 0x20008, unix.CLONE_NEWUSER, unix.CLONE_NEWNS | 17, 0xffffffff, 1 << 32, 1<<64 - 1} {
			sum := sha256.New()
			for n := range uint32(unknownToReference) {
				if n == 335 { // uretprobe, which libseccomp does not know either
					continue
				}
				answer, err := filter.Run(filters[0], filter.Event{Number: n, Audit: audit, Args: [6]uint64{value, value, value}})
				if err != nil {
					t.Fatal(err)
				}
				fmt.Fprintln(sum, n, answer)
			}
			report[fmt.Sprintf("filter of architecture %#x with %#x", audit, value)] = hex.EncodeToString(sum.Sum(nil)[:8])
		}
	}
	return report
}
