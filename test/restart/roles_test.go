package restart

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// The test program is also what runs in the pods, mounted from the host: it is static
// and needs nothing of an image.
const (
	roleEnv    = "GANTRY_RESTART_ROLE"
	roleServer = "server"
	roleClient = "client"

	serviceEnv = "GANTRY_RESTART_SERVICE" // address of the service
	rateEnv    = "GANTRY_RESTART_RATE"    // requests per second on each way

	mountPath  = "/restart"
	resultFile = "outcome.json"
	stopFile   = "stop"

	lookedUp = "web.default.svc.cluster.local."
)

func TestMain(m *testing.M) {
	var err error
	switch role := os.Getenv(roleEnv); role {
	case "":
		os.Exit(m.Run())
	case roleServer:
		err = serve()
	case roleClient:
		err = useService()
	default:
		err = fmt.Errorf("%s=%q is no role", roleEnv, role)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// serve is the web server. At SIGTERM it answers nothing more and closes all
// connections, whatever was on its way there: the least that a server can do for its
// clients. Only those that talk over WebSockets are told.
func serve() error {
	l, err := net.Listen("tcp4", ":8080")
	if err != nil {
		return err
	}
	terminated := make(chan os.Signal, 1)
	signal.Notify(terminated, syscall.SIGTERM)
	go func() {
		<-terminated
		sockets.goodbye()
		os.Exit(0)
	}()
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		go answerAll(c)
	}
}

// useService is the client inside the cluster: requests to the service's address, each
// on a connection of its own, and lookups of the service's name. It works until there
// is a file that says stop, and leaves the outcomes in another.
func useService() error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	web := &asker{addr: os.Getenv(serviceEnv), host: "web", fresh: true}
	rate, err := strconv.Atoi(os.Getenv(rateEnv))
	if err != nil {
		return err
	}
	resolv, err := dns.ClientConfigFromFile("/etc/resolv.conf")
	if err != nil {
		return err
	}
	loads := []load{
		{"service address", rate, web.ask},
		{"cluster DNS", lookupRate, func(context.Context) error { return lookup(net.JoinHostPort(resolv.Servers[0], resolv.Port)) }},
	}
	outcomes := make([]*Outcome, len(loads))
	var running sync.WaitGroup
	for i, l := range loads {
		running.Go(func() { outcomes[i] = l.run(ctx) })
	}
	for tick := time.NewTicker(20 * time.Millisecond); ; {
		<-tick.C
		if _, err := os.Stat(filepath.Join(mountPath, stopFile)); err == nil {
			break
		}
	}
	cancel()
	running.Wait()
	data, err := json.Marshal(outcomes)
	if err != nil {
		return err
	}
	partial := filepath.Join(mountPath, "."+resultFile)
	return errors.Join(os.WriteFile(partial, data, 0o644), os.Rename(partial, filepath.Join(mountPath, resultFile)))
}

// lookup asks for the service's address. What is asked while nobody is there waits and is
// answered; only a question that was just being answered when the server was killed is
// lost, and asked again, after a time that the table shows.
func lookup(server string) error {
	client := &dns.Client{Timeout: requestTimeout}
	question := new(dns.Msg).SetQuestion(lookedUp, dns.TypeA)
	answer, _, err := client.Exchange(question, server)
	if err != nil {
		answer, _, err = client.Exchange(question, server)
	}
	if err == nil && len(answer.Answer) != 1 {
		err = fmt.Errorf("%s with %d addresses", dns.RcodeToString[answer.Rcode], len(answer.Answer))
	}
	return err
}
