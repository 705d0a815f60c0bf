package shimd

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/gantryhq/gantry/engine/shim/protocol"
)

// Files in a container's directory. Documented in docs/formats/shim-protocol.md.
const (
	recordFile = "shim.json"
	exitFile   = "exit.json"
	stdinFIFO  = "stdin"
	stdoutFIFO = "stdout"
	stderrFIFO = "stderr"
	outputFile = "output" // of the command, for containers with a terminal
)

// record is what the next shim needs to take a running container over.
type record struct {
	PID int `json:"pid"`
	// StartTicks is the kernel's start time of PID, which tells the process
	// from a later one with the same number.
	StartTicks uint64    `json:"startTicks"`
	Boot       string    `json:"boot"` // the kernel's id of the boot it was started in
	StartedAt  time.Time `json:"startedAt"`
	LogPath    string    `json:"logPath,omitempty"`
	Terminal   bool      `json:"terminal,omitempty"`
	Stdin      bool      `json:"stdin,omitempty"`
	StdinOnce  bool      `json:"stdinOnce,omitempty"`
	OOMFile    string    `json:"oomFile,omitempty"`
	Leftover   string    `json:"leftoverFile,omitempty"`
	PipeDir    string    `json:"pipeDir,omitempty"`
}

// writeJSON replaces a file in one step. It does not wait for the disk: the
// directory describes processes, which do not survive a power failure either.
func writeJSON(path string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	temp := path + ".new"
	if err := os.WriteFile(temp, b, 0o600); err != nil {
		return err
	}
	return os.Rename(temp, path)
}

// writeJSONDirectly writes a new file. Whoever is killed in between leaves a part.
func writeJSONDirectly(path string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return os.WriteFile(path, b, 0o600)
}

// readJSON reads a file into v and reports whether it was there.
func readJSON(path string, v any) (bool, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if err := json.Unmarshal(b, v); err != nil {
		return false, fmt.Errorf("read %s: %w", path, err)
	}
	return true, nil
}

// readPID reads a pid file.
func readPID(path string) (int, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil || pid <= 1 {
		return 0, fmt.Errorf("read %s: %q is not a pid", path, b)
	}
	return pid, nil
}

// readPIDs reads a file of pids, one a line. An empty name is an empty file.
func readPIDs(path string) (pids []int) {
	if path == "" {
		return nil
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil
	}
	for line := range strings.FieldsSeq(string(b)) {
		if pid, err := strconv.Atoi(line); err == nil && pid > 1 {
			pids = append(pids, pid)
		}
	}
	return pids
}

// startTicks returns the start time of a process in clock ticks after boot, 0
// when there is no such process.
func startTicks(pid int) uint64 {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0
	}
	// The second field is the name in parentheses and may contain anything.
	rest := string(b[strings.LastIndexByte(string(b), ')')+1:])
	fields := strings.Fields(rest)
	if len(fields) < 20 {
		return 0
	}
	ticks, _ := strconv.ParseUint(fields[19], 10, 64)
	return ticks
}

// bootID identifies this run of the kernel.
func bootID() string {
	b, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(b))
}

// validID reports whether id can be the name of a directory and of a container.
func validID(id string) bool {
	if id == "" || len(id) > 64 || id[0] == '-' {
		return false
	}
	for _, r := range id {
		if (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '-' {
			return false
		}
	}
	return true
}

func (s *Server) containerDir(id string) string {
	return filepath.Join(s.dir, protocol.ContainersDir, id)
}
