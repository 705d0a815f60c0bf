package shimd

import (
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gantryhq/gantry/engine/shim/protocol"
)

// idleExit is how long a shim without running containers and clients lives on.
const idleExit = 15 * time.Second

// Server is a running shim.
type Server struct {
	dir     string
	boot    string // the kernel's id of this boot
	log     *log.Logger
	reaper  *reaper
	spawner *spawner
	oomV2   oomV2
	stop    chan struct{}
	keeper  keeper

	mu          sync.Mutex
	containers  map[string]*container
	subscribers map[chan protocol.State]struct{}
	connections int
	idleSince   time.Time
	stopping    bool
	unwanted    bool // asked to end by a signal
}

// Serve holds the containers below dir until it is idle or asked to stop. It
// writes "ready" to its standard output once it accepts connections.
func Serve(dir string) error {
	debug.SetGCPercent(100)
	acceptSignals()
	// Best effort: whoever dies first when memory is short, it is not everyone's
	// parent. Containers are given scores of their own.
	os.WriteFile("/proc/self/oom_score_adj", []byte("-999"), 0)
	dir, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Join(dir, protocol.ContainersDir), 0o700); err != nil {
		return err
	}
	lock, err := lock(filepath.Join(dir, protocol.LockName))
	if err != nil {
		return err
	}
	defer lock.Close()
	reaper, err := newReaper()
	if err != nil {
		return err
	}
	spawner, err := newSpawner()
	if err != nil {
		return err
	}
	s := &Server{
		dir:         dir,
		boot:        bootID(),
		log:         log.New(os.Stderr, "", log.LstdFlags|log.LUTC),
		reaper:      reaper,
		spawner:     spawner,
		stop:        make(chan struct{}),
		containers:  map[string]*container{},
		subscribers: map[chan protocol.State]struct{}{},
		idleSince:   time.Now(),
	}
	if err := s.adopt(); err != nil {
		return err
	}
	listener, err := protocol.Listen(dir, protocol.SocketName)
	if err != nil {
		return fmt.Errorf("listen on %s: %w", filepath.Join(dir, protocol.SocketName), err)
	}
	defer os.Remove(filepath.Join(dir, protocol.SocketName))
	go s.accept(listener)
	go s.handleSignals()
	go s.exitWhenIdle()
	fmt.Println("ready")
	<-s.stop
	return nil
}

func lock(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: another shim holds this directory (%w)", path, err)
	}
	if err := f.Truncate(0); err != nil {
		return nil, err
	}
	_, err = fmt.Fprintln(f, os.Getpid()) // for people, and for clients it cannot talk to
	return f, err
}

func (s *Server) logf(format string, args ...any) { s.log.Printf(format, args...) }

// handleSignals keeps a shim with running containers alive: ending it politely
// is never what somebody who wants to stop them needs. It ends when they have ended, so
// that a machine which goes down has nobody to wait for.
func (s *Server) handleSignals() {
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, unix.SIGTERM, unix.SIGINT, unix.SIGHUP, unix.SIGPIPE)
	for sig := range signals {
		if sig == unix.SIGHUP || sig == unix.SIGPIPE {
			continue
		}
		s.mu.Lock()
		s.unwanted = true
		s.mu.Unlock()
		if err := s.shutdown(); err != nil {
			s.logf("%v: %v", sig, err)
		}
	}
}

// endIfUnwanted is called after the end of each container.
func (s *Server) endIfUnwanted() {
	s.mu.Lock()
	unwanted := s.unwanted
	s.mu.Unlock()
	if unwanted {
		s.shutdown() // refuses while others run
	}
}

// shutdown stops the shim unless containers run.
func (s *Server) shutdown() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := s.runningLocked(); n > 0 {
		return protocol.Errorf(protocol.CodeRunning, "the shim stays: it holds %d running containers, remove them first", n)
	}
	if !s.stopping {
		s.stopping = true
		close(s.stop)
	}
	return nil
}

func (s *Server) runningLocked() (n int) {
	for _, c := range s.containers {
		if c.snapshot().Phase != protocol.Exited {
			n++
		}
	}
	return n
}

func (s *Server) exitWhenIdle() {
	for range time.Tick(idleExit / 3) {
		s.mu.Lock()
		idle := s.connections == 0 && time.Since(s.idleSince) > idleExit
		s.mu.Unlock()
		if idle {
			s.shutdown() // refuses while containers run
		}
	}
}

func (s *Server) accept(l *net.UnixListener) {
	for {
		conn, err := l.AcceptUnix()
		if err != nil {
			s.logf("accept: %v", err)
			time.Sleep(10 * time.Millisecond) // out of descriptors: some will be closed
			continue
		}
		s.count(1)
		go func() {
			defer s.count(-1)
			defer conn.Close()
			if err := s.serve(conn); err != nil {
				s.logf("%v", err)
			}
		}()
	}
}

func (s *Server) count(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.connections += n
	s.idleSince = time.Now()
}

// serve answers the one request of a connection.
func (s *Server) serve(conn *net.UnixConn) error {
	var req protocol.Request
	received, err := protocol.Read(conn, &req)
	if err == io.EOF {
		return nil
	}
	if err != nil {
		return err
	}
	files := map[string]*os.File{}
	for i, f := range received {
		if i < len(req.Files) {
			files[req.Files[i]] = f
		} else {
			f.Close()
		}
	}
	defer func() {
		for _, f := range files {
			f.Close()
		}
	}()
	err = s.dispatch(conn, &req, files)
	if err == nil {
		return nil
	}
	var refusal *protocol.Error
	if !errors.As(err, &refusal) {
		refusal = protocol.Errorf(protocol.CodeFailed, "%v", err)
	}
	protocol.Write(conn, protocol.Reply{Error: refusal}) // a client that has gone needs no answer
	return nil
}

func (s *Server) dispatch(conn *net.UnixConn, req *protocol.Request, files map[string]*os.File) error {
	if req.Version != protocol.Version && req.Op != protocol.OpHello {
		return protocol.Errorf(protocol.CodeVersion, "the shim speaks protocol version %d, not %d", protocol.Version, req.Version)
	}
	switch req.Op {
	case protocol.OpHello:
		return protocol.Write(conn, protocol.Reply{Version: protocol.Version, PID: os.Getpid(), Features: []string{protocol.FeatureLaunch}})
	case protocol.OpStart:
		return s.start(conn, req, files)
	case protocol.OpExec:
		return s.exec(conn, req, files)
	case protocol.OpAttach:
		return s.attach(conn, req, files)
	case protocol.OpList:
		return protocol.Write(conn, protocol.Reply{States: s.list()})
	case protocol.OpEvents:
		return s.events(conn)
	case protocol.OpForget:
		return acknowledge(conn, s.forget(req))
	case protocol.OpKeep:
		return acknowledge(conn, s.keeper.keep(files))
	case protocol.OpKept:
		return s.keeper.kept(conn, req.Files)
	case protocol.OpShutdown:
		return acknowledge(conn, s.shutdown())
	}
	c, err := s.find(req.ID)
	if err != nil {
		return err
	}
	switch <-c.settled; req.Op {
	case protocol.OpSignal:
		return acknowledge(conn, c.signal(req.Signal))
	case protocol.OpRelease:
		return acknowledge(conn, c.proceed())
	case protocol.OpReopen:
		return acknowledge(conn, c.log.reopen())
	case protocol.OpResize:
		if req.Size == nil {
			return protocol.Errorf(protocol.CodeInvalid, "resize container %q: a size is needed", req.ID)
		}
		return acknowledge(conn, c.resize(*req.Size))
	}
	return protocol.Errorf(protocol.CodeInvalid, "the shim knows no operation %q", req.Op)
}

func acknowledge(conn *net.UnixConn, err error) error {
	if err != nil {
		return err
	}
	return protocol.Write(conn, protocol.Reply{})
}
