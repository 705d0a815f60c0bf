// Package runtime is the seam between the node agent and whatever turns a
// container specification into processes.
//
// It speaks in whole containers: the node agent resolves images, volumes,
// environment and security context into a [Container] and never sees an OCI
// bundle, a cgroup path or a pipe. A [Driver] owns all of these. Drivers are
// chosen by a pod's RuntimeClass handler; runc is the first, the fast launcher
// is the second.
//
// Guarantees every driver gives: a container outlives the process that called
// Start; an exit code is kept until Remove; output lines are written to LogPath
// in the CRI log format; a failed Start leaves no process, mount or cgroup.
// Callers may not assume that an ID is reusable before Remove returned.
//
// Only engine/node imports this package, and engine/dockerapi for the words of
// streams and processes.
package runtime

import (
	"context"
	"io"
	"time"
)

// Container is everything a driver needs to run one container.
type Container struct {
	ID       string // unique on this machine, [a-z0-9-], at most 64 bytes
	PodUID   string
	Handler  string // RuntimeClass handler; "" is the default driver
	Hostname string
	Labels   map[string]string // kept with the container and returned by List

	Rootfs         string // mounted, writable root directory
	ReadOnlyRootfs bool
	Args           []string
	Env            []string // KEY=value
	Cwd            string
	User           User
	Mounts         []Mount
	Devices        []Device
	DeviceRules    []string // further devices it may use if it finds them: "c 10:200 rwm"
	Rlimits        []Rlimit // instead of the defaults of these names

	Namespaces Namespaces
	Security   Security
	Resources  Resources
	Sysctls    map[string]string

	// CgroupParent is the pod's cgroup relative to Gantry's root, e.g.
	// "burstable/pod<uid>", or "". The driver makes it when it is absent and
	// removes it together with its last container.
	CgroupParent string

	LogPath   string // "" discards output
	Stdin     bool
	StdinOnce bool
	TTY       bool
}

// User is the identity of the first process.
type User struct {
	UID, GID         uint32
	AdditionalGroups []uint32
}

// Mount is a bind mount from the host, or tmpfs when Source is empty.
// Target is resolved inside the root: a symbolic link in the image cannot
// redirect it to the host.
type Mount struct {
	Source      string
	Target      string
	ReadOnly    bool
	Propagation string // "private" (default), "rslave", "rshared"
	SizeBytes   int64  // tmpfs only; 0 is the kernel's default
	// Options of a tmpfs, as mount(8) writes them, instead of the usual ones.
	Options []string
}

// Namespaces names the pinned namespaces to join. An empty path means a new
// one, [Host] the host's.
type Namespaces struct {
	Net, IPC, UTS, PID string
	// UserNS, when not nil, maps container ids to host ids.
	UserNS *UserNS
}

// UserNS is a contiguous user and group id mapping from 0.
type UserNS struct {
	HostID uint32
	Length uint32
}

// Host in a [Namespaces] field means the host's own namespace.
const Host = "host"

// Security is the resolved security context. The zero value is the safe one:
// default capabilities, default seccomp, no new privileges, masked paths.
type Security struct {
	Privileged        bool
	AllowPrivilegeEsc bool // false sets no_new_privs
	AddCapabilities   []string
	DropCapabilities  []string
	SeccompUnconfined bool
	SeccompProfile    string // path of a localhost profile, "" is the runtime default
	AppArmorProfile   string // "" is the host's default when it has one, "unconfined"
	UnmaskedProc      bool   // procMount: Unmasked
}

// Resources are cgroup limits; zero means unlimited (or the kernel's default).
type Resources struct {
	CPUShares   uint64
	CPUQuota    int64 // microseconds per period
	CPUPeriod   uint64
	MemoryLimit int64 // bytes
	PidsLimit   int64 // -1 is none, also when the limit is changed
	OOMScoreAdj int
	Hugepages   map[string]uint64 // page size ("2MB") to bytes
}

// State is what a driver knows about one container.
type State struct {
	ID         string
	PodUID     string
	Labels     map[string]string
	PID        int
	Running    bool
	StartedAt  time.Time
	FinishedAt time.Time // zero while running
	ExitCode   int
	OOMKilled  bool
	Message    string // reason of a failed start, or what was lost; else ""
	// AdoptedAt is when the container was taken up again after whoever held its
	// streams had died; zero when that never happened. Attached and exec sessions
	// of before are lost then, and perhaps output that was on its way to the log.
	AdoptedAt time.Time
}

// Streams are the caller's ends of an exec or attach. Nil ones are closed.
type Streams struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	TTY            bool
	Resize         <-chan Size // or nil
}

// Size is a terminal size in cells.
type Size struct{ Width, Height uint16 }

// Exec is a process to run inside a running container.
type Exec struct {
	Args []string
	Env  []string
	Cwd  string
	User *User // nil is the container's own
}

// Stats is one reading of a container's cgroup.
type Stats struct {
	At               time.Time
	CPUNanos         uint64 // since start
	MemoryBytes      uint64
	WorkingSetBytes  uint64 // usage less inactive file pages
	Pids             uint64 // processes and threads
	Processes        uint64
	Periods          uint64 // in which the limit on processor time was enforced
	ThrottledPeriods uint64
	ThrottledNanos   uint64
	UserNanos        uint64
	SystemNanos      uint64
	RSSBytes         uint64 // anonymous memory
	CacheBytes       uint64 // file pages
	SwapBytes        uint64
	PageFaults       uint64
	MajorPageFaults  uint64
	OOMKills         uint64
	// ReadBytes, WrittenBytes, Reads and Writes of block devices; zero on hosts with cgroup v1,
	// where containers are not in the controller's hierarchy.
	ReadBytes, WrittenBytes, Reads, Writes uint64
}

// Driver runs containers. All methods are safe for concurrent use. Errors for
// an unknown ID satisfy errors.Is(err, fs.ErrNotExist).
type Driver interface {
	// Expect says that a Start will probably follow within milliseconds, so that
	// what takes time can begin. It returns at once.
	Expect()
	// Start creates and starts c and returns when its first process runs.
	Start(ctx context.Context, c *Container) (State, error)
	// Signal sends a signal to the first process (all processes when all is set).
	Signal(ctx context.Context, id string, signal int, all bool) error
	// Remove kills what is left and deletes every trace except the log file.
	Remove(ctx context.Context, id string) error
	// List returns all containers the driver knows, running or exited, also
	// those started before this process.
	List(ctx context.Context) ([]State, error)
	// Events delivers a State whenever a container exits, is OOM-killed or is adopted
	// ([State.AdoptedAt]). The channel is closed when ctx ends. After a reconnect every
	// exited or adopted container is delivered again: receivers must be idempotent.
	Events(ctx context.Context) <-chan State
	// Exec runs a process and returns its exit code.
	Exec(ctx context.Context, id string, e Exec, s Streams) (int, error)
	// Attach connects to the first process's streams until they close.
	Attach(ctx context.Context, id string, s Streams) error
	// ReopenLog makes the driver write to LogPath anew after a rotation.
	ReopenLog(ctx context.Context, id string) error
	// Update changes cgroup limits of a running container.
	Update(ctx context.Context, id string, r Resources) error
	// Pause stops all processes of a container, and returns when none runs any more;
	// Resume lets them go on. A paused container can be killed and removed.
	Pause(ctx context.Context, id string) error
	Resume(ctx context.Context, id string) error
	Stats(ctx context.Context, id string) (Stats, error)
}
