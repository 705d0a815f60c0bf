package initd

import (
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/gantryhq/gantry/engine/shim/recipe"
)

// failure is a step that could not be done.
type failure struct {
	step, object string
	err          error
}

func (f *failure) Error() string {
	text := f.step
	if f.object != "" {
		text += " \"" + f.object + "\""
	}
	return text + ": " + f.err.Error()
}

// fail names the step of an error, nil stays nil.
func fail(step, object string, err error) error {
	if err == nil {
		return nil
	}
	return &failure{step, object, err}
}

type text string

func (t text) Error() string { return string(t) }

// Main is the program. It ends by becoming another one, or with an error on the
// control socket.
func Main() {
	runtime.LockOSThread() // namespaces, credentials and filters belong to threads
	// What the shim had open and what this program opens stays outside.
	if err := unix.CloseRange(3, ^uint(0), unix.CLOSE_RANGE_CLOEXEC); err != nil {
		exit(fail("close descriptors", "", err))
	}
	// Containers that share a pid namespace see this process, at the end with
	// their own rights: they must not look into it before it is the program.
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		exit(fail("hide the memory", "", err))
	}
	r, err := load()
	if err != nil {
		exit(err)
	}
	stage, _ := syscall.Getenv(recipe.StageEnv)
	switch {
	case r.Enter:
		exit(enter(r))
	case r.SecondStage != 0 && stage == "":
		exit(firstStage(r))
	default:
		exit(start(r, stage == ""))
	}
}

// exit reports an error, if there is one, and ends the process.
func exit(err error) {
	if err != nil {
		send(recipe.MessageError, err.Error())
		unix.Exit(1)
	}
	unix.Exit(0)
}

// load reads the recipe. A second stage reads the same file, so the offset
// stays where it is.
func load() (*recipe.Recipe, error) {
	var info unix.Stat_t
	if err := unix.Fstat(recipe.RecipeFD, &info); err != nil {
		return nil, fail("find the recipe", "", err)
	}
	data := make([]byte, info.Size)
	for n := 0; n < len(data); {
		m, err := unix.Pread(recipe.RecipeFD, data[n:], int64(n))
		if err == nil && m == 0 {
			err = recipe.ErrCorrupt
		}
		if err != nil && err != unix.EINTR {
			return nil, fail("read the recipe", "", err)
		}
		n += max(m, 0)
	}
	r, err := recipe.Decode(data)
	return r, fail("read the recipe", "", err)
}

// send writes one message; what cannot be sent nobody waits for.
func send(kind byte, body string) {
	message := append([]byte{kind}, body...)
	for {
		if _, err := unix.Write(recipe.ControlFD, message); err != unix.EINTR {
			return
		}
	}
}

// sendFile sends a message that a descriptor comes with.
func sendFile(kind byte, fd int) error {
	rights := make([]byte, unix.CmsgSpace(4))
	header := (*unix.Cmsghdr)(unsafe.Pointer(&rights[0]))
	header.Level, header.Type = unix.SOL_SOCKET, unix.SCM_RIGHTS
	header.SetLen(unix.CmsgLen(4))
	*(*int32)(unsafe.Pointer(&rights[unix.CmsgLen(0)])) = int32(fd)
	return unix.Sendmsg(recipe.ControlFD, []byte{kind}, rights, nil, 0)
}

// await waits for a message of the shim. When the shim ends instead, so does
// this process: nobody would know of the container.
func await(kind byte) error {
	message := make([]byte, 1)
	for {
		n, err := unix.Read(recipe.ControlFD, message)
		switch {
		case err == unix.EINTR:
		case err != nil:
			return fail("hear from the shim", "", err)
		case n == 0 || message[0] != kind:
			return fail("hear from the shim", "", text("it has gone"))
		default:
			return nil
		}
	}
}
