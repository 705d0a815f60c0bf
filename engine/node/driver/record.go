package driver

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/gantryhq/gantry/engine/node/launch"
	"github.com/gantryhq/gantry/engine/node/runtime"
	"github.com/gantryhq/gantry/engine/shim/protocol"
)

// Files in a container's directory, beside the shim's own.
const (
	recordName  = "container.json"
	pidName     = "pid"
	logName     = "runtime.log"
	consoleName = "console.sock"
)

// Files in a container's directory in memory: they hold secrets.
const (
	bundleName = "config.json" // for an OCI runtime
	doorName   = "door"        // for the launcher, see package launch
)

// record is what the driver must remember about a container.
type record struct {
	ID      string            `json:"id"`
	PodUID  string            `json:"podUID,omitempty"`
	Labels  map[string]string `json:"labels,omitempty"`
	Runtime string            `json:"runtime"` // path of the OCI runtime
	Cgroup  string            `json:"cgroup"`
	LogPath string            `json:"logPath,omitempty"`
	Stdin   bool              `json:"stdin,omitempty"`
	TTY     bool              `json:"tty,omitempty"`
	// OwnPIDs means that all processes are in a pid namespace that ends with the
	// first one.
	OwnPIDs bool `json:"ownPIDs,omitempty"`
	// Process is the first process of a container that an earlier release has
	// started; later ones have it in memory only.
	Process *specs.Process `json:"process,omitempty"`

	prepared *launch.Prepared // until it has been started
}

func (r *record) state(s protocol.State) runtime.State {
	return runtime.State{
		ID:         r.ID,
		PodUID:     r.PodUID,
		Labels:     r.Labels,
		PID:        s.PID,
		Running:    s.Phase == protocol.Running,
		StartedAt:  s.StartedAt,
		FinishedAt: s.FinishedAt,
		ExitCode:   s.ExitCode,
		OOMKilled:  s.OOMKilled,
		Message:    s.Message,
		AdoptedAt:  s.AdoptedAt,
	}
}

// checkID refuses what cannot be a directory, a cgroup and a container's name.
func checkID(id string) error {
	ok := id != "" && len(id) <= 64 && id[0] != '-'
	for _, r := range id {
		ok = ok && (r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '-')
	}
	if !ok {
		return fmt.Errorf("container id %q: 1 to 64 of a-z, 0-9 and - are needed, not beginning with -", id)
	}
	return nil
}

func writeJSON(path string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return os.WriteFile(path, b, 0o600)
}

// load reads the records of containers that an earlier driver started.
func (d *Driver) load() error {
	entries, err := os.ReadDir(d.containersDir())
	if err != nil {
		return err
	}
	for _, e := range entries {
		r, err := d.readRecord(e.Name())
		if err != nil {
			d.log.Warn("container record is unreadable, the container will be removed", "container", e.Name(), "error", err)
			continue
		}
		d.known[r.ID] = r
	}
	return nil
}

func (d *Driver) readRecord(id string) (*record, error) {
	b, err := os.ReadFile(filepath.Join(d.dir(id), recordName))
	if err != nil {
		return nil, err
	}
	r := &record{}
	if err := json.Unmarshal(b, r); err != nil {
		return nil, err
	}
	if r.ID != id {
		return nil, errors.New("the record is of another container")
	}
	return r, nil
}

// record returns what is known about a started container.
func (d *Driver) record(id string) (*record, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if r := d.known[id]; r != nil {
		return r, nil
	}
	return nil, fmt.Errorf("container %q: %w", id, fs.ErrNotExist)
}

// explain replaces what the shim knows about a failed run of the OCI runtime by
// what the runtime itself logged last.
func explain(err error, logPath string) error {
	var failure *protocol.Error
	if !errors.As(err, &failure) || failure.ExitStatus == 0 {
		return err
	}
	if message := lastError(logPath); message != "" {
		return errors.New(message)
	}
	if text := strings.TrimSpace(failure.Output); text != "" {
		return fmt.Errorf("%w: %s", err, text)
	}
	return err
}

// lastError returns the last error in an OCI runtime's JSON log.
func lastError(path string) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	last := ""
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		var entry struct{ Level, Msg string }
		if json.Unmarshal(lines.Bytes(), &entry) == nil && (entry.Level == "error" || entry.Level == "fatal") {
			last = entry.Msg
		}
	}
	return strings.TrimSpace(last)
}
