package shimd

import (
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// killStrays ends the processes that an earlier shim had started in running
// containers for exec: their clients are cut off, so that nobody would ever end
// them or hear of them. They are known by their parent, which is outside of the
// pid namespace they are in, as only that of a container's first process is too.
// Containers without a pid namespace of their own keep theirs until they end.
func (s *Server) killStrays(first []record) {
	namespaces, spared := map[string]bool{}, map[int]bool{os.Getpid(): true}
	ours := pidNamespace(os.Getpid())
	for _, r := range first {
		spared[r.PID] = true
		if ns := pidNamespace(r.PID); ns != "" && ns != ours && startTicks(r.PID) == r.StartTicks {
			namespaces[ns] = true
		}
	}
	if len(namespaces) == 0 {
		return
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		s.logf("look for strays: %v", err)
		return
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || spared[pid] {
			continue
		}
		pidfd, err := unix.PidfdOpen(pid, 0) // the process below is this one, not a later one
		if err != nil {
			continue
		}
		if ns := pidNamespace(pid); namespaces[ns] && pidNamespace(parentOf(pid)) != ns {
			s.logf("ending process %d: it was started by exec under the shim that was killed", pid)
			unix.PidfdSendSignal(pidfd, unix.SIGKILL, nil, 0)
		}
		unix.Close(pidfd)
	}
}

// pidNamespace names the pid namespace of a process, or "" when it has ended.
func pidNamespace(pid int) string {
	name, _ := os.Readlink("/proc/" + strconv.Itoa(pid) + "/ns/pid")
	return name
}

func parentOf(pid int) int {
	b, _ := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	fields := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	if len(fields) < 2 {
		return 0
	}
	parent, _ := strconv.Atoi(fields[1])
	return parent
}
