package recipe

// Version of the encoding.
const Version = 1

// Descriptors that gantry-init finds open.
const (
	ControlFD = 3 // a SOCK_SEQPACKET socket, see the messages below
	RecipeFD  = 4 // a file that holds the encoded recipe
	TargetFD  = 5 // a pidfd of the container's first process, to enter it
	FilesFD   = 5 // otherwise the first of the files that the recipe numbers
)

// A File is the number of an open file that comes with a recipe, counted from
// 1. What a container uses of the host is opened by the program that writes the
// recipe: the init itself never looks around there.
type File = uint64

// StageEnv is the environment variable that tells gantry-init its stage: "2"
// in a process that a first stage has started, absent otherwise.
const StageEnv = "GANTRY_INIT_STAGE"

// Kinds of messages on the control socket: their first byte.
const (
	MessageGo       = 'g' // to init: the control groups are set, begin
	MessageStart    = 's' // to init: execute now, after MessageReady
	MessageReady    = 'r' // everything but the execution is done
	MessagePID      = 'p' // the process was started under another pid, in text
	MessageTerminal = 't' // a terminal's master side comes along
	MessageExec     = 'x' // the next thing is the execution; the socket closes by it
	MessageError    = 'e' // why it could not be done, in text
)

// Recipe describes one process and, unless Enter is set, the container that it
// is the first process of.
type Recipe struct {
	// Enter makes the process one of the container of TargetFD; of everything
	// outside Process only Namespaces is used then.
	Enter bool
	// Namespaces are clone flags of the namespaces to enter.
	Namespaces uint64
	// Joins are existing namespaces that the container uses.
	Joins []Join
	// SecondStage, when not zero, are the flags of one more clone after the
	// joins: a new member of a pid namespace must be born into it, and the owner
	// of a new user namespace cannot join namespaces of the host any more.
	SecondStage    uint64
	UIDMap, GIDMap []IDMap
	// Files is how many files come with the recipe.
	Files uint64
	// CgroupNamespace makes a new one, once the process is in its groups.
	CgroupNamespace bool

	Root            string // for errors
	RootFile        File   // the root directory as a mount that is nowhere yet
	RootPropagation uint64 // MS_* flags, 0 is slave
	ReadonlyRoot    bool
	Hostname        string // "" leaves the name as it is
	Domainname      string
	Mounts          []Mount
	Devices         []Device
	Links           []Setting // symbolic links: path and what it points to
	MaskedPaths     []string
	ReadonlyPaths   []string
	Sysctls         []Setting

	// Hold waits for MessageStart before the execution.
	Hold    bool
	Process Process
}

// Join is an existing namespace.
type Join struct {
	Kind uint64 // clone flag
	Path string // for errors
	File File
}

// IDMap is one line of a user namespace's map.
type IDMap struct{ Inside, Outside, Length uint64 }

// Setting is a name with a value.
type Setting struct{ Name, Value string }

// Mount is a file system, or a mount that is nowhere yet. The target is resolved inside the
// root, and made when it is missing.
type Mount struct {
	Target      string
	FS          string // type of the file system; "" mounts File
	Source      string
	File        File
	Options     []string // of the file system: "name" or "name=value"
	Set, Clear  uint64   // MOUNT_ATTR_*
	RSet        uint64   // the same for everything mounted below
	RClear      uint64
	Propagation uint64 // MS_*, with MS_REC
	// NoLinks refuses symbolic links on the way to the target: what is masked
	// below it must be what is mounted on it.
	NoLinks bool
	// Remount only changes the flags of what is mounted on the target.
	Remount bool
}

// Device is a device file to make; or, where a user namespace may make none, to
// mount.
type Device struct {
	Path         string
	File         File   // 0 makes one
	Mode         uint64 // type and permissions
	Major, Minor uint64
	UID, GID     uint64
}

// Process is what to execute, and as whom.
type Process struct {
	Args, Env []string
	Cwd       string
	UID, GID  uint64
	Groups    []uint64
	// SetGroups is off where a user namespace forbids setgroups(2).
	SetGroups    bool
	Umask        int64 // -1 leaves it
	Rlimits      []Rlimit
	Caps         Capabilities
	NoNewPrivs   bool
	Seccomp      []byte // struct sock_filter after struct sock_filter, empty for none
	SeccompFlags uint64
	OOMScoreAdj  string // "" leaves it
	AppArmor     string // profile to be executed in
	SELinux      string // label to be executed in
	Keyring      string // name of the session keyring, "" for none
	// Terminal makes stdin the controlling terminal; a first process gets a new
	// terminal, whose master side is sent back.
	Terminal   bool
	Rows, Cols uint64
}

// Rlimit is one resource limit.
type Rlimit struct{ Resource, Soft, Hard uint64 }

// Capabilities are sets of bits.
type Capabilities struct{ Bounding, Permitted, Effective, Inheritable, Ambient uint64 }
