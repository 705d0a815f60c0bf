// Package protocol holds the messages spoken between the shim and its clients,
// and how they travel over the unix socket DIR/shim.sock. The reference is
// docs/formats/shim-protocol.md.
//
// Every request has a connection of its own: one request, then one or more
// replies. Closing the connection cancels what the request started as far as
// it is not finished, so a client that dies leaves nothing half done.
//
// The package uses only the standard library and golang.org/x/sys, because the
// shim that links it must stay small. Only engine/shim and its parts import it.
package protocol

import (
	"fmt"
	"time"
)

// Version is the protocol's version. It rises only when an old peer would
// misunderstand a message; new optional fields do not raise it.
const Version = 1

// SocketName, LockName and ContainersDir are names below the shim's directory.
const (
	SocketName    = "shim.sock"
	LockName      = "shim.lock"
	ContainersDir = "containers"
)

// Operations a request can name.
const (
	OpHello    = "hello"    // reply: Version, PID
	OpStart    = "start"    // reply: State; closing the connection earlier aborts the start
	OpExec     = "exec"     // replies: PID, then ExitCode when the process ended
	OpAttach   = "attach"   // reply when connected; closing the connection detaches
	OpSignal   = "signal"   // reply: none but the acknowledgement
	OpResize   = "resize"   // reply: none but the acknowledgement
	OpReopen   = "reopen"   // reply: none but the acknowledgement
	OpRelease  = "release"  // reply: none but the acknowledgement; a held start goes on
	OpList     = "list"     // reply: States
	OpEvents   = "events"   // replies: States, for ever
	OpForget   = "forget"   // sends Signal if there is one; reply when the container exited and the shim let go of it
	OpKeep     = "keep"     // reply: none but the acknowledgement; Files are kept for later clients
	OpKept     = "kept"     // reply: Files, those of the request's that are kept
	OpShutdown = "shutdown" // reply, then the shim exits; refused while containers run
)

// Request is what a client sends. ID names a container for every operation
// about one. Descriptors that accompany a request are named in Files, in the
// order in which they were sent.
type Request struct {
	Version int      `json:"version"`
	Op      string   `json:"op"`
	ID      string   `json:"id,omitempty"`
	Files   []string `json:"files,omitempty"` // "stdin", "stdout", "stderr", "init", "recipe"; any name for keep

	Start  *Start `json:"start,omitempty"`
	Exec   *Exec  `json:"exec,omitempty"`
	Signal int    `json:"signal,omitempty"`
	Size   *Size  `json:"size,omitempty"`
	// Timeout bounds a start or a forget.
	Timeout time.Duration `json:"timeout,omitempty"`
}

// FeatureLaunch means that a shim knows [Launch].
const FeatureLaunch = "launch"

// Names of the descriptors of a [Launch].
const (
	FileInit   = "init"
	FileRecipe = "recipe"
	// FilePad is a mount namespace for the process to be born into, optional. The
	// process can copy it at little cost, and starts sooner where little is mounted.
	FilePad = "pad"
	// FileAttached and a number from 0 are the files that the recipe speaks of.
	FileAttached = "attached-"
)

// Launch makes the shim clone a container's process by itself. It executes the
// program that came with the request as FileInit, which turns itself into the
// process that FileRecipe describes; see package recipe for what they say to
// each other. The shim need not understand either, so that they can be newer
// than it.
type Launch struct {
	// CloneFlags are the namespaces that the process is born into.
	CloneFlags uint64 `json:"cloneFlags,omitempty"`
	// CgroupProcs are the files of cgroup v1 that the pid is written to, before
	// the process does anything. CgroupDir is the group of cgroup v2 that it is
	// born into.
	CgroupProcs []string `json:"cgroupProcs,omitempty"`
	CgroupDir   string   `json:"cgroupDir,omitempty"`
	// Hold has the process wait for a release before it becomes the program.
	Hold bool `json:"hold,omitempty"`
	// Terminal means that the terminal's master side is sent back.
	Terminal bool `json:"terminal,omitempty"`
}

// Start asks the shim to run Command, which must create the container, write
// the pid of its first process to PIDFile and exit with 0; or to do it by
// itself, as Launch says. Relative paths are below DIR/containers/<id>, which
// the client has created and which is also the command's working directory.
type Start struct {
	Command []string `json:"command,omitempty"`
	Env     []string `json:"env,omitempty"`
	PIDFile string   `json:"pidFile,omitempty"`
	Launch  *Launch  `json:"launch,omitempty"`
	// Console is the name of the socket, in the container's directory, on which
	// Command sends the terminal's master side. "" means no terminal.
	Console string `json:"console,omitempty"`
	LogPath string `json:"logPath,omitempty"` // "" discards output
	Stdin   bool   `json:"stdin,omitempty"`
	// StdinOnce closes stdin when the first attached client closes its own.
	StdinOnce bool `json:"stdinOnce,omitempty"`
	// PipeDir is where the named pipes are made, the container's directory if it
	// is "". In memory they cost less.
	PipeDir string `json:"pipeDir,omitempty"`
	// OwnerUID and OwnerGID own the pipes: root inside the container.
	OwnerUID int `json:"ownerUID,omitempty"`
	OwnerGID int `json:"ownerGID,omitempty"`
	// OOMFile is a file with a line "oom_kill N": memory.events of cgroup v2
	// or memory.oom_control of v1. "" when there is none.
	OOMFile string `json:"oomFile,omitempty"`
	// LeftoverFile lists, one pid a line, the processes that must not outlive the
	// first one: cgroup.procs of a container without a pid namespace of its own,
	// in which the kernel would end them. "" when there is nothing to do.
	LeftoverFile string `json:"leftoverFile,omitempty"`
}

// Exec asks the shim to run Command, which must start a process in the
// container with the streams it was given, write its pid to PIDFile and exit;
// or to do it by itself, as Launch says.
type Exec struct {
	Command []string `json:"command,omitempty"`
	Env     []string `json:"env,omitempty"`
	PIDFile string   `json:"pidFile,omitempty"`
	Launch  *Launch  `json:"launch,omitempty"`
}

// Size is a terminal's size in cells.
type Size struct {
	Width  uint16 `json:"width"`
	Height uint16 `json:"height"`
}

// Reply is what the shim sends. Error excludes everything else.
type Reply struct {
	Error    *Error  `json:"error,omitempty"`
	Version  int     `json:"version,omitempty"`
	PID      int     `json:"pid,omitempty"`
	ExitCode *int    `json:"exitCode,omitempty"`
	State    *State  `json:"state,omitempty"`
	States   []State `json:"states,omitempty"`
	// Files names the descriptors that come with the reply to kept.
	Files []string `json:"files,omitempty"`
	// Features are what a shim can do beyond its version, in the reply to hello.
	Features []string `json:"features,omitempty"`
}

// Phases of a container.
const (
	Starting = "starting"
	Held     = "held" // everything is ready, and waits for a release
	Running  = "running"
	Exited   = "exited"
)

// State is what the shim knows about one container.
type State struct {
	ID         string    `json:"id"`
	Phase      string    `json:"phase"`
	PID        int       `json:"pid,omitempty"`
	StartedAt  time.Time `json:"startedAt,omitzero"`
	FinishedAt time.Time `json:"finishedAt,omitzero"`
	ExitCode   int       `json:"exitCode,omitempty"`
	OOMKilled  bool      `json:"oomKilled,omitempty"`
	// AdoptedAt is when a shim took the running container over from one that had
	// been killed; zero when that never happened.
	AdoptedAt time.Time `json:"adoptedAt,omitzero"`
	// Message says what the shim could not find out or had to give up.
	Message string `json:"message,omitempty"`
}

// Codes of an [Error].
const (
	CodeNotFound = "not-found"
	CodeExists   = "exists"
	CodeInvalid  = "invalid"
	CodeVersion  = "version"
	CodeRunning  = "running"
	CodeFailed   = "failed"
)

// Error is a refusal or a failure.
type Error struct {
	Code    string `json:"code"`
	Message string `json:"message"`
	// ExitStatus and Output belong to a Command that failed.
	ExitStatus int    `json:"exitStatus,omitempty"`
	Output     string `json:"output,omitempty"`
}

func (e *Error) Error() string { return e.Message }

// Errorf makes an [Error] with a code.
func Errorf(code, format string, args ...any) *Error {
	return &Error{Code: code, Message: fmt.Sprintf(format, args...)}
}
