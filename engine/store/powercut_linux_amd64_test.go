package store_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gantryhq/gantry/engine/store"
)

const (
	recordedSyncs = 200 // how many of the victim's syncs are recorded
	powerCuts     = 100 // at how many moments of them the power is cut
	sectorBytes   = 512 // what a disk writes as a whole
)

// TestPowerCutAtAnyMoment records every write and every sync of a process that
// writes as fast as it can, with what it acknowledged in between, and rebuilds what
// a disk may hold when the power fails at any moment of it: all that was synced,
// and of each later write any sectors, in any order. The store must open without
// help and hold everything that was acknowledged as durable.
func TestPowerCutAtAnyMoment(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	if err := open(t, path, store.Options{}).Close(); err != nil {
		t.Fatal(err)
	}
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	events := record(t, path)
	seed := uint64(time.Now().UnixNano())
	rng := rand.New(rand.NewPCG(seed, 0))
	cuts := map[int]bool{}
	for len(cuts) < min(powerCuts, len(events)/2) {
		cuts[rng.IntN(len(events))] = true
	}
	d, told, lost := disk{durable: before}, promises{durable: map[string]acknowledged{}}, 0
	liar := disk{durable: bytes.Clone(before)} // syncs mean nothing to it
	for i, e := range events {
		d.apply(e)
		if e.synced == 0 {
			liar.apply(e)
		}
		if e.said != "" {
			told.hear(e.said)
		}
		if !cuts[i] {
			continue
		}
		image, n := d.cut(rng)
		lost += n
		if broken := told.broken(t, image); len(broken) > 0 {
			t.Fatalf("power cut after event %d of seed %d: %s", i, seed, strings.Join(broken, "\n"))
		}
	}
	odd := 0
	for range 10 {
		image, _ := liar.cut(rng)
		odd += len(told.broken(t, image))
	}
	if odd == 0 {
		t.Error("a disk that loses what was synced breaks no promise: this test cannot fail")
	}
	t.Logf("%d cuts in %d events: %d sectors were lost, nothing that was acknowledged", len(cuts), len(events), lost)
}

// event is one thing the victim did: a write, a change of the size, a sync, or a
// line it said.
type event struct {
	data   []byte
	offset int64
	size   int64 // of ftruncate, or -1
	synced int   // for a sync: how many events were made durable; else 0
	said   string
}

// disk is what has reached the medium for certain, and what may have.
type disk struct {
	durable []byte
	pending []event
	seen    int // events
	first   int // of pending, counted in events
}

func (d *disk) apply(e event) {
	d.seen++
	if e.synced == 0 {
		d.pending = append(d.pending, e)
		return
	}
	rest := d.pending[:0:0]
	for i, p := range d.pending {
		if d.first+i < e.synced {
			d.durable = p.onto(d.durable, nil)
		} else {
			rest = append(rest, p)
		}
	}
	d.first += len(d.pending) - len(rest)
	d.pending = append(rest, event{size: -1}) // the sync itself keeps the count
}

// onto applies an event to an image; keep says which sectors reach it.
func (e event) onto(image []byte, keep func() bool) []byte {
	if e.size >= 0 && (keep == nil || keep()) {
		image = resized(image, e.size)
	}
	for at := 0; at < len(e.data); at += sectorBytes {
		if keep != nil && !keep() {
			continue
		}
		sector := e.data[at:min(at+sectorBytes, len(e.data))]
		if end := e.offset + int64(at+len(sector)); end > int64(len(image)) {
			image = resized(image, end)
		}
		copy(image[e.offset+int64(at):], sector)
	}
	return image
}

func resized(image []byte, size int64) []byte {
	if size <= int64(len(image)) {
		return image[:size]
	}
	return append(image, make([]byte, size-int64(len(image)))...)
}

// cut is an image of the disk as the failure may leave it.
func (d *disk) cut(rng *rand.Rand) (image []byte, lost int) {
	image = bytes.Clone(d.durable)
	odds := rng.IntN(4) // never, sometimes, often, always
	for _, e := range d.pending {
		image = e.onto(image, func() bool {
			if rng.IntN(3) < odds {
				return true
			}
			lost++
			return false
		})
	}
	return image, lost
}

// promises are what the victim acknowledged.
type promises struct {
	durable map[string]acknowledged
	newest  uint64
}

func (p *promises) hear(line string) {
	var kind, key string
	var a acknowledged
	if n, _ := fmt.Sscan(line, &kind, &a.revision, &key, &a.length); n != 4 {
		return
	}
	switch kind {
	case "deleting": // it may happen without being acknowledged
		delete(p.durable, key)
	case "deleted":
		a.length = -1
		fallthrough
	case "durable":
		if a.revision > p.durable[key].revision {
			p.durable[key] = a
		}
	}
	p.newest = max(p.newest, a.revision)
}

// broken says which promises a store that opens this file does not keep.
func (p *promises) broken(t *testing.T, image []byte) (list []string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "state.db")
	if err := os.WriteFile(path, image, 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := store.Open(path, store.Options{})
	if err != nil {
		return []string{err.Error()}
	}
	defer s.Close()
	if s.Revision() < p.newest {
		list = append(list, fmt.Sprintf("it opens at revision %d, %d was seen before", s.Revision(), p.newest))
	}
	for key, a := range p.durable {
		e, _ := s.Get(key)
		switch {
		case e == nil && a.length >= 0:
			list = append(list, fmt.Sprintf("%s, acknowledged at %d, is gone", key, a.revision))
		case e == nil:
		case e.ModRevision < a.revision:
			list = append(list, fmt.Sprintf("%s is at revision %d, %d was acknowledged", key, e.ModRevision, a.revision))
		case e.ModRevision == a.revision && len(e.Data) != a.length:
			list = append(list, fmt.Sprintf("%s holds %d bytes, %d were acknowledged", key, len(e.Data), a.length))
		}
	}
	return list
}

// record runs the victim of TestCrash and notes what it does to the file at path and
// what it says, in the order in which it does so.
func record(t *testing.T, path string) []event {
	t.Helper()
	var events []event
	failed := make(chan error)
	go func() {
		runtime.LockOSThread() // who traces is a thread, which ends with this
		tr := tracer{path: path, calls: map[int]unix.PtraceRegs{}}
		err := tr.run()
		events = tr.events
		failed <- err
	}()
	if err := <-failed; errors.Is(err, fs.ErrPermission) {
		t.Skipf("needs ptrace(2): %v", err)
	} else if err != nil {
		t.Fatalf("trace the victim: %v", err)
	}
	return events
}

// tracer follows the system calls of all threads of a process.
type tracer struct {
	path   string
	calls  map[int]unix.PtraceRegs // by thread: the call it is in
	upTo   map[int]int             // by thread in a sync: the events before it
	events []event
	syncs  int
}

func (tr *tracer) run() error {
	tr.upTo = map[int]int{}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), crashFile+"="+tr.path)
	cmd.SysProcAttr = &syscall.SysProcAttr{Ptrace: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	pid := cmd.Process.Pid
	defer func() {
		_ = cmd.Process.Kill()
		for { // its threads end one by one, each told to the tracer
			if _, err := unix.Wait4(-1, nil, unix.WALL|unix.WNOTHREAD, nil); err != nil && err != unix.EINTR {
				break
			}
		}
		_ = cmd.Process.Release()
	}()
	var status unix.WaitStatus
	if _, err := unix.Wait4(pid, &status, 0, nil); err != nil {
		return err
	}
	if err := unix.PtraceSetOptions(pid, unix.PTRACE_O_TRACESYSGOOD|unix.PTRACE_O_TRACECLONE|unix.PTRACE_O_EXITKILL); err != nil {
		return err
	}
	for thread, signal := pid, 0; ; {
		if err := unix.PtraceSyscall(thread, signal); err != nil && err != unix.ESRCH {
			return err
		}
		var err error
		if thread, err = unix.Wait4(-1, &status, unix.WALL|unix.WNOTHREAD, nil); err != nil {
			return err
		}
		signal = 0
		switch {
		case status.Exited() || status.Signaled():
			if thread == pid {
				return fmt.Errorf("it ended: %v", status)
			}
		case status.StopSignal() == unix.SIGTRAP|0x80:
			if err := tr.stopped(thread); err != nil {
				return err
			}
		case status.StopSignal() != unix.SIGTRAP && status.StopSignal() != unix.SIGSTOP:
			signal = int(status.StopSignal())
		}
		if tr.syncs >= recordedSyncs {
			return nil
		}
	}
}

// stopped is called at the entry and at the end of every system call.
func (tr *tracer) stopped(thread int) error {
	call, inside := tr.calls[thread]
	if !inside {
		if err := unix.PtraceGetRegs(thread, &call); err != nil {
			return err
		}
		tr.calls[thread] = call
		return tr.entered(thread, call)
	}
	delete(tr.calls, thread)
	switch call.Orig_rax {
	case unix.SYS_PWRITE64, unix.SYS_FTRUNCATE, unix.SYS_FSYNC, unix.SYS_FDATASYNC:
	default:
		return nil
	}
	if target, _ := os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", thread, call.Rdi)); target != tr.path {
		return nil
	}
	var end unix.PtraceRegs
	if err := unix.PtraceGetRegs(thread, &end); err != nil {
		return err
	}
	if int64(end.Rax) < 0 {
		return nil
	}
	switch call.Orig_rax {
	case unix.SYS_PWRITE64:
		data, err := peek(thread, call.Rsi, int(end.Rax))
		tr.events = append(tr.events, event{data: data, offset: int64(call.R10), size: -1})
		return err
	case unix.SYS_FTRUNCATE:
		tr.events = append(tr.events, event{size: int64(call.Rsi)})
	default:
		tr.syncs++
		tr.events = append(tr.events, event{size: -1, synced: tr.upTo[thread]})
	}
	return nil
}

// entered notes what counts from the beginning of a call: what is said was known
// before, and a sync covers what was written before.
func (tr *tracer) entered(thread int, call unix.PtraceRegs) error {
	switch {
	case call.Orig_rax == unix.SYS_FSYNC || call.Orig_rax == unix.SYS_FDATASYNC:
		tr.upTo[thread] = len(tr.events)
	case call.Orig_rax == unix.SYS_WRITE && call.Rdi == 1:
		text, err := peek(thread, call.Rsi, int(call.Rdx))
		tr.events = append(tr.events, event{size: -1, said: strings.TrimSpace(string(text))})
		return err
	}
	return nil
}

func peek(thread int, address uint64, n int) ([]byte, error) {
	data := make([]byte, n)
	if n == 0 {
		return data, nil
	}
	local, remote := []unix.Iovec{{Base: &data[0], Len: uint64(n)}}, []unix.RemoteIovec{{Base: uintptr(address), Len: n}}
	got, err := unix.ProcessVMReadv(thread, local, remote, 0)
	if err == nil && got != n {
		err = fmt.Errorf("read %d bytes of %d", got, n)
	}
	return data, err
}
