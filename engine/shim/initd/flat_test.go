package initd

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/gantryhq/gantry/engine/shim/recipe"
)

// runFlat has the flat program execute steps, and returns what it said on its standard
// output and, as the shim would hear it, on the control socket.
func runFlat(t *testing.T, f *flat) (output, message string) {
	t.Helper()
	program := FlatProgram()
	if program == nil {
		t.Skip("there is no flat init for this processor")
	}
	text, ok := f.file()
	if !ok {
		t.Fatal("the steps do not fit")
	}
	path := t.TempDir() + "/flat"
	list, err := os.Create(path + ".recipe")
	if err != nil {
		t.Fatal(err)
	}
	defer list.Close()
	if _, err := list.Write(text); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, program, 0o700); err != nil {
		t.Fatal(err)
	}
	control, other, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer control.Close()
	cmd := exec.Command(path)
	cmd.ExtraFiles = []*os.File{other, list} // 3 and 4
	out, err := cmd.Output()
	other.Close()
	if _, exited := err.(*exec.ExitError); err != nil && !exited {
		t.Fatal(err)
	}
	heard, err := io.ReadAll(control)
	if err != nil {
		t.Fatal(err)
	}
	return string(out), string(heard)
}

func newFlat() *flat {
	f := &flat{texts: map[string]uint64{}, how: map[[2]uint64]uint64{}}
	f.info = f.hold(make([]byte, 256))
	return f
}

func (f *flat) say(s string) *step { return f.call(unix.SYS_WRITE, 1, f.text(s), uint64(len(s))) }

func TestFlatStepsAreExecuted(t *testing.T) {
	f := newFlat()
	f.say("begin ")
	f.say("over ").skip = 1
	f.say("never ")
	// Errors: which lead on, which pass over steps, and which are of no interest.
	f.call(unix.SYS_CLOSE, 99).or(unix.EINVAL, 0).or(unix.EBADF, 1)
	f.say("never ")
	f.call(unix.SYS_CLOSE, 99).or(unix.EBADF, 0)
	f.call(unix.SYS_CLOSE, 99).goOn = 1
	// Results of earlier steps as arguments: the descriptor, then as many bytes as its number.
	f.call(unix.SYS_DUP, 1).into(targetResult)
	f.call(unix.SYS_WRITE, 1, f.text("12345678901234567890"), 3).use(0, result(targetResult))
	f.call(unix.SYS_WRITE, 1, f.text("12345678901234567890"), 0).use(2, result(targetResult))
	f.call(unix.SYS_DUP3, 1, 0, 0).use(1, result(targetResult))
	f.compare(uintptr(f.words(0x1234)), 0xff, 0x34)
	f.compare(uintptr(f.words(0x1234)), 0xff, 0x35).or(unix.EPERM, 0)
	f.say("end")
	failing := len(f.steps)
	f.call(unix.SYS_CLOSE, 98)
	output, message := runFlat(t, f)
	if !strings.HasPrefix(output, "begin over 123") || !strings.HasSuffix(output, "end") || strings.Contains(output, "never") {
		t.Errorf("it said %q", output)
	}
	want := fmt.Sprintf("e%s%08x%08x", FlatFailure, (flatData+len(f.data)+7)&^7+failing*flatStep, int(unix.EBADF))
	if message != want {
		t.Errorf("the shim hears %q, want %q", message, want)
	}
}

func TestFlatExecutesTheProgram(t *testing.T) {
	f := newFlat()
	r := &recipe.Recipe{Process: recipe.Process{
		Args: []string{"sh", "-c", `echo "$A-$HOME-$(ulimit -n)-$(umask)-$PWD"`}, Env: []string{"A=b", "PATH=/nowhere:/bin"},
		Cwd: "/", Umask: 0o027, Rlimits: []recipe.Rlimit{{Resource: unix.RLIMIT_NOFILE, Soft: 77, Hard: 77}},
		UID: uint64(os.Getuid()), GID: uint64(os.Getgid()), Caps: recipe.Capabilities{Bounding: ^uint64(0)},
	}}
	if !f.become(r, "/srv/b") {
		t.Fatal("no flat form")
	}
	output, message := runFlat(t, f)
	if want := "b-/srv/b-77-0027-/\n"; output != want || message != string(rune(recipe.MessageExec)) {
		t.Errorf("it said %q, and to the shim %q; want %q", output, message, want)
	}
}

// Only what can be decided in advance has a flat form.
func TestWhatHasNoFlatForm(t *testing.T) {
	plain := func() *recipe.Recipe {
		return &recipe.Recipe{RootFile: 1, Files: 1, Process: recipe.Process{Args: []string{"true"}, Cwd: "/"}}
	}
	if _, ok := Flat(plain(), []bool{true}, ""); !ok {
		t.Error("a plain recipe has no flat form")
	}
	for name, change := range map[string]func(r *recipe.Recipe){
		"a further process":     func(r *recipe.Recipe) { r.Enter = true },
		"two stages":            func(r *recipe.Recipe) { r.SecondStage = unix.CLONE_NEWPID },
		"a hold":                func(r *recipe.Recipe) { r.Hold = true },
		"a terminal":            func(r *recipe.Recipe) { r.Process.Terminal = true },
		"an AppArmor profile":   func(r *recipe.Recipe) { r.Process.AppArmor = "x" },
		"an SELinux label":      func(r *recipe.Recipe) { r.Process.SELinux = "x" },
		"no program":            func(r *recipe.Recipe) { r.Process.Args = nil },
		"something over /proc":  func(r *recipe.Recipe) { r.Mounts = []recipe.Mount{{Target: "/proc", File: 1}} },
		"devices in two places": func(r *recipe.Recipe) { r.Devices = []recipe.Device{{Path: "/dev/a"}, {Path: "/b"}} },
		"a mounted device":      func(r *recipe.Recipe) { r.Devices = []recipe.Device{{Path: "/dev/a", File: 1}} },
	} {
		r := plain()
		change(r)
		if _, ok := Flat(r, []bool{true}, ""); ok {
			t.Errorf("%s: it has a flat form", name)
		}
	}
}

func BenchmarkFlat(b *testing.B) {
	r := &recipe.Recipe{RootFile: 1, Files: 1, Process: recipe.Process{Args: []string{"true"}, Cwd: "/", Seccomp: make([]byte, 4096)}}
	for range 20 {
		r.Mounts = append(r.Mounts, recipe.Mount{Target: "/var/lib/something", File: 1, Set: 1})
		r.MaskedPaths = append(r.MaskedPaths, "/proc/something")
	}
	b.ReportAllocs()
	for b.Loop() {
		text, ok := Flat(r, []bool{true}, "/")
		if !ok {
			b.Fatal("no flat form")
		}
		b.ReportMetric(float64(len(text)), "bytes")
	}
}
