package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gantryhq/gantry/internal/process"
)

// gatewayProcess keeps one `gantry gateway` running for a data directory. The
// process outlives `gantry serve`: a successor finds it by its record and takes
// it over when its command line is still the wanted one, else it starts a new
// one, which shares the listening ports, before the old one drains.
type gatewayProcess struct {
	dir       string // DataDir/run
	args      []string
	addresses gatewayAddresses
	running   process.Handle // zero when none runs
	draining  []process.Handle
}

// gatewayRecord is DataDir/run/gateway.json.
type gatewayRecord struct {
	Process   process.Handle   `json:"process"`
	Version   string           `json:"version"`
	Args      []string         `json:"args"`
	Addresses gatewayAddresses `json:"addresses"`
	// Draining are processes that were replaced and finish their requests.
	Draining []process.Handle `json:"draining,omitempty"`
}

func openGatewayProcess(dataDir, kubeconfig, httpListen, tlsListen string, flags ...string) (*gatewayProcess, error) {
	g := &gatewayProcess{dir: filepath.Join(dataDir, "run")}
	var last gatewayRecord
	data, err := os.ReadFile(g.recordPath())
	if err == nil {
		err = json.Unmarshal(data, &last)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		slog.Warn("cannot read the gateway's record; a new gateway is started", "path", g.recordPath(), "err", err)
	}
	alive := last.Process.Alive()
	if !alive {
		// A successor died before it was told to begin: its predecessor holds the ports.
		if err := endDraining(last.Draining); err != nil {
			return nil, err
		}
	}
	if g.addresses.HTTP, err = chooseAddress("gateway-listen", httpListen, alive, last.Addresses.HTTP, ":80", ":8080"); err != nil {
		return nil, err
	}
	if g.addresses.TLS, err = chooseAddress("gateway-tls-listen", tlsListen, alive, last.Addresses.TLS, ":443", ":8443"); err != nil {
		return nil, err
	}
	g.args = []string{"gateway", "--kubeconfig", kubeconfig, "--listen", g.addresses.HTTP, "--tls-listen", g.addresses.TLS, "--admin", g.adminSocket(),
		"--state", filepath.Join(dataDir, "gateway")}
	g.args = append(g.args, flags...)
	if alive {
		g.running, g.draining = last.Process, last.Draining
		if last.Version != version || !slices.Equal(last.Args, g.args) {
			return g, g.replace()
		}
	}
	return g, nil
}

// chooseAddress is the wanted address, or the one a running gateway has, or the
// first of the defaults whose port is free.
func chooseAddress(flag, wanted string, alive bool, last string, defaults ...string) (string, error) {
	if wanted == "" && alive && last != "" {
		return last, nil
	}
	if wanted != "" {
		defaults = []string{wanted}
	}
	if alive && sameAddress(wanted, last) {
		return last, nil
	}
	var err error
	for _, address := range defaults {
		var l net.Listener
		if l, err = listenSoon(address, wanted != ""); err == nil {
			defer l.Close()
			return l.Addr().String(), nil
		}
	}
	return "", fmt.Errorf("find a port for the gateway: %w", listenError(err, defaults[len(defaults)-1], flag))
}

// portPatience is how long a wanted port that is taken may become free: a gateway that
// was just told to end still finishes its requests.
const portPatience = 2 * time.Second

// listenSoon listens at an address. One that is wanted is tried again for a while.
func listenSoon(address string, wanted bool) (net.Listener, error) {
	for end := time.Now().Add(portPatience); ; time.Sleep(20 * time.Millisecond) {
		l, err := net.Listen("tcp", address)
		if err == nil || !wanted || !errors.Is(err, syscall.EADDRINUSE) || time.Now().After(end) {
			return l, err
		}
	}
}

// sameAddress is whether two ways of writing mean one address to listen on: ":80"
// is recorded as "[::]:80", the address it was bound to.
func sameAddress(a, b string) bool {
	left, err := net.ResolveTCPAddr("tcp", a)
	if err != nil {
		return false
	}
	right, err := net.ResolveTCPAddr("tcp", b)
	if err != nil || left.Port != right.Port {
		return false
	}
	everywhere := func(ip net.IP) bool { return len(ip) == 0 || ip.Equal(net.IPv6unspecified) }
	return left.IP.Equal(right.IP) || everywhere(left.IP) && everywhere(right.IP)
}

func (g *gatewayProcess) recordPath() string  { return filepath.Join(g.dir, "gateway.json") }
func (g *gatewayProcess) adminSocket() string { return filepath.Join(g.dir, gatewaySocket) }

// gatewaySocket is the gateway's admin socket in DataDir/run.
const gatewaySocket = "gateway.sock"

// gatewayAdminSocket is where the gateway of a data directory tells of itself.
func gatewayAdminSocket(dataDir string) string { return filepath.Join(dataDir, "run", gatewaySocket) }

// ensure starts the process unless it runs, and waits until it is ready.
func (g *gatewayProcess) ensure(ctx context.Context) error {
	if g.running.Alive() {
		// One that was never told to begin ends by itself.
		if err := g.waitReady(ctx); err == nil {
			return g.retire()
		} else if g.running.Alive() {
			return err
		}
	}
	if err := g.start(); err != nil {
		return err
	}
	return g.waitReady(ctx)
}

// retire has replaced gateways finish their requests and end. Not before their
// successor is ready: however long that takes, somebody accepts connections.
func (g *gatewayProcess) retire() error {
	for _, h := range g.draining {
		if err := h.Signal(unix.SIGTERM); err != nil {
			return fmt.Errorf("end a gateway that was replaced: %w", err)
		}
	}
	return nil
}

// start starts the process and tells it to begin once it is recorded: should this
// process die in between, nobody is left who holds the ports and is not known.
func (g *gatewayProcess) start(further ...string) error {
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	log, err := os.OpenFile(filepath.Join(g.dir, "gateway.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("open the gateway's log: %w", err)
	}
	defer log.Close()
	begin, tell, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("start the gateway: %w", err)
	}
	defer tell.Close()
	cmd := exec.Command(self, append(append(g.args[:len(g.args):len(g.args)], further...), "--when-recorded")...)
	cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = log, log, []*os.File{begin}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = cmd.Start()
	begin.Close()
	if err != nil {
		return fmt.Errorf("start the gateway: %w", err)
	}
	go func() { _ = cmd.Wait() }() // reap it when it ends before this process does
	if g.running, err = process.Find(cmd.Process.Pid); err != nil {
		return fmt.Errorf("start the gateway: %w", err)
	}
	g.draining = slices.DeleteFunc(g.draining, func(h process.Handle) bool { return !h.Alive() })
	if err := writeRecord(g.recordPath(), gatewayRecord{g.running, version, g.args, g.addresses, g.draining}); err != nil {
		return fmt.Errorf("record the gateway: %w", err)
	}
	if _, err := tell.Write([]byte{1}); err != nil {
		return fmt.Errorf("tell the gateway to begin: %w", err)
	}
	return nil
}

// awaitRecord returns once the process that started this gateway has recorded it.
func awaitRecord() error {
	begin := os.NewFile(3, "begin") // the first of exec.Cmd's ExtraFiles
	defer begin.Close()
	if _, err := io.ReadFull(begin, make([]byte, 1)); err != nil {
		return fmt.Errorf("wait to be recorded: whoever started this gateway has ended: %w", err)
	}
	return nil
}

// endDraining ends gateways that were to be replaced.
func endDraining(list []process.Handle) error {
	ctx, cancel := context.WithTimeout(context.Background(), drainTime)
	defer cancel()
	for _, h := range list {
		if err := h.Signal(unix.SIGINT); err != nil {
			return fmt.Errorf("end a gateway that was to be replaced: %w", err)
		}
		if h.Wait(ctx) == nil {
			continue
		}
		if err := h.Signal(unix.SIGKILL); err != nil {
			return fmt.Errorf("end a gateway that was to be replaced: %w", err)
		}
	}
	return nil
}

// replace starts a successor beside the running process, which ends when that one
// is ready: see retire.
func (g *gatewayProcess) replace() error {
	g.draining = append(g.draining, g.running)
	return g.start("--take-over")
}

// waitReady asks the gateway's admin socket until it says that routes are loaded.
func (g *gatewayProcess) waitReady(ctx context.Context) error {
	client := http.Client{Transport: &http.Transport{DialContext: g.dialAdmin}}
	defer client.CloseIdleConnections()
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://gateway/readyz", nil)
		if err != nil {
			return err
		}
		resp, err := client.Do(req)
		if err == nil {
			_ = resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return nil
			}
			err = fmt.Errorf("it answers %s", resp.Status)
		}
		if !g.running.Alive() {
			return fmt.Errorf("the gateway process ended; its log is %s", filepath.Join(g.dir, "gateway.log"))
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for the gateway: %w (its log is %s)", err, filepath.Join(g.dir, "gateway.log"))
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// dialAdmin connects to the admin socket of the running process. Until a successor has
// started, its predecessor answers there: to take that for the successor would end the
// one before anybody else listens.
func (g *gatewayProcess) dialAdmin(ctx context.Context, _, _ string) (net.Conn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "unix", g.adminSocket())
	if err != nil {
		return nil, err
	}
	raw, err := conn.(*net.UnixConn).SyscallConn()
	if err == nil {
		var peer *unix.Ucred
		var failed error
		err = raw.Control(func(fd uintptr) { peer, failed = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
		if err = errors.Join(err, failed); err == nil && int(peer.Pid) != g.running.PID {
			err = fmt.Errorf("process %d answers at its socket instead of %d", peer.Pid, g.running.PID)
		}
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}

// keepRunning starts the process again whenever it ends, until ctx does.
func (g *gatewayProcess) keepRunning(ctx context.Context) error {
	for {
		if err := g.running.Wait(ctx); ctx.Err() != nil {
			return ctx.Err()
		} else if err != nil {
			return err
		}
		slog.Warn("the gateway process ended and is started again")
		if err := g.ensure(ctx); err != nil && ctx.Err() == nil {
			slog.Error("the gateway does not start", "err", err)
			select {
			case <-ctx.Done():
			case <-time.After(2 * time.Second):
			}
		}
	}
}
