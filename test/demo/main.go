// Command demo shows a newcomer what Gantry does, with the example shop: it is
// built and deployed, an order is placed, the container that took it is killed,
// and the storefront is replaced under load. It prints what happened in a table
// and ends with status 1 when an order was lost or a request failed.
//
// script/demo builds and runs it. It leaves Gantry and the shop running.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/gantryhq/gantry/internal/platform"
)

const (
	gantry    = "bin/gantry"
	shopLoad  = "bin/shop-load"
	shop      = "examples/shop"
	secondFix = "examples/shop/compose.v2.yaml"
	namespace = "shop"
	loadRate  = "100"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	d := &demo{dataDir: "/var/lib/gantry"}
	if dir := os.Getenv("GANTRY_DATA"); dir != "" {
		d.dataDir = dir
	}
	err := d.run(ctx)
	d.table.print(os.Stdout)
	if err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
	d.whatNext()
}

// demo is one run.
type demo struct {
	dataDir string
	kube    kubernetes.Interface
	gateway string // host:port on this machine
	order   string
	buyer   string
	table   table
}

func (d *demo) run(ctx context.Context) error {
	for _, step := range []struct {
		say string
		do  func(context.Context) error
	}{
		{"Start Gantry", d.startGantry},
		{"Build the shop and bring it up", d.bringUp},
		{"Bring it up again: nothing changed, so nothing happens", d.bringUpAgain},
		{"Place an order through the gateway", d.placeOrder},
		{"Kill the container that took the order", d.killOrders},
		{"Kill the database too", d.killDatabase},
		{"Replace the storefront by version 2 while customers are shopping", d.rollUnderLoad},
	} {
		fmt.Printf("\n\x1b[1m== %s\x1b[0m\n", step.say)
		if err := step.do(ctx); err != nil {
			return fmt.Errorf("%s: %w", strings.ToLower(step.say[:1])+step.say[1:], err)
		}
	}
	return nil
}

// startGantry leaves a running instance alone.
func (d *demo) startGantry(ctx context.Context) error {
	if d.connect(ctx) == nil {
		fmt.Println("it runs already, in", d.dataDir)
		d.table.add("Gantry was running already", "", "")
		return nil
	}
	if err := os.MkdirAll(d.dataDir, 0o700); err != nil {
		return err
	}
	logPath := filepath.Join(d.dataDir, "serve.log")
	log, err := os.OpenFile(logPath, os.O_CREATE|os.O_TRUNC|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	args := append([]string{"serve", "--data-dir", d.dataDir}, strings.Fields(os.Getenv("GANTRY_SERVE_FLAGS"))...)
	serve := exec.Command(gantry, args...)
	serve.Stdout, serve.Stderr = log, log
	serve.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // outlives this program
	began := time.Now()
	if err := serve.Start(); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- serve.Wait() }()
	if err := d.awaitReady(ctx, logPath, ended); err != nil {
		return err
	}
	d.table.add("Gantry started", seconds(time.Since(began)), "")
	return d.connect(ctx)
}

// awaitReady waits for the ready line that `gantry serve` prints.
func (d *demo) awaitReady(ctx context.Context, logPath string, ended <-chan error) error {
	const patience = 30 * time.Second
	deadline := time.After(patience)
	for {
		said, err := os.ReadFile(logPath)
		if err != nil {
			return err
		}
		if _, line, ok := bytes.Cut(said, []byte("gantry ready in")); ok {
			line, _, _ = bytes.Cut(line, []byte("\n"))
			fmt.Printf("gantry ready in%s\n", line)
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case err := <-ended:
			return fmt.Errorf("gantry serve ended: %v; it said:\n%s", err, said)
		case <-deadline:
			return fmt.Errorf("gantry serve is not ready after %s; it said:\n%s", patience, said)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// connect finds the running instance and its gateway.
func (d *demo) connect(ctx context.Context) error {
	config, err := clientcmd.BuildConfigFromFlags("", filepath.Join(d.dataDir, "kubeconfig"))
	if err != nil {
		return err
	}
	if d.kube, err = kubernetes.NewForConfig(config); err != nil {
		return err
	}
	info, err := platform.Read(ctx, d.kube)
	if err != nil {
		return err
	}
	d.gateway = "127.0.0.1:" + info.Gateway[strings.LastIndex(info.Gateway, ":")+1:]
	return nil
}

func (d *demo) bringUp(ctx context.Context) error {
	began := time.Now()
	if err := d.show(ctx, gantry, "up", shop, "--timeout", "10m", "--data-dir", d.dataDir); err != nil {
		return err
	}
	d.table.add("Shop built, pushed, deployed and ready", seconds(time.Since(began)), "")
	return nil
}

func (d *demo) bringUpAgain(ctx context.Context) error {
	before, err := d.restartsAndPods(ctx)
	if err != nil {
		return err
	}
	began := time.Now()
	if err := d.show(ctx, gantry, "up", shop, "--data-dir", d.dataDir); err != nil {
		return err
	}
	took := time.Since(began)
	after, err := d.restartsAndPods(ctx)
	if err != nil {
		return err
	}
	if before != after {
		return fmt.Errorf("containers changed although nothing else did:\n%s\nnow\n%s", before, after)
	}
	d.table.add("Second up without a change, nothing restarted", seconds(took), "")
	return nil
}

func (d *demo) placeOrder(ctx context.Context) error {
	began := time.Now()
	said, err := d.load(ctx, "order")
	if err != nil {
		return err
	}
	if _, err := fmt.Sscan(said, &d.order, &d.buyer); err != nil {
		return fmt.Errorf("read %q: %w", said, err)
	}
	fmt.Println(d.order, "is placed and paid")
	d.table.add("Order placed: "+d.order, seconds(time.Since(began)), "")
	return nil
}

func (d *demo) killOrders(ctx context.Context) error {
	return d.killAndFind(ctx, "orders", "orders pod killed, order still there")
}

func (d *demo) killDatabase(ctx context.Context) error {
	return d.killAndFind(ctx, "postgres", "database pod killed, order still there")
}

// killAndFind kills a service's pod without notice, waits for its successor and
// looks for the order.
func (d *demo) killAndFind(ctx context.Context, service, result string) error {
	began := time.Now()
	old, err := d.kill(ctx, service)
	if err != nil {
		return err
	}
	fmt.Println("killed pod", old.Name)
	successor, err := d.awaitSuccessor(ctx, service, old)
	if err != nil {
		return err
	}
	took := time.Since(began)
	fmt.Printf("pod %s took over after %s\n", successor, seconds(took))
	said, err := d.load(ctx, "find", d.order, d.buyer)
	if err != nil {
		return fmt.Errorf("the order is LOST: %w", err)
	}
	fmt.Println(said)
	d.table.add(result, seconds(took), "0 lost")
	return nil
}

// report is what the load generator found.
type report struct {
	Requests  int            `json:"requests"`
	Failed    int            `json:"failed"`
	Orders    int            `json:"orders"`
	P50ms     float64        `json:"p50_ms"`
	P99ms     float64        `json:"p99_ms"`
	ByVersion map[string]int `json:"by_version"`
	Reasons   map[string]int `json:"reasons"`
}

// rollUnderLoad keeps customers shopping from before the change until after it.
func (d *demo) rollUnderLoad(ctx context.Context) error {
	const around = 2 * time.Second // of load before and after
	shoppers := exec.CommandContext(ctx, shopLoad, "run", "-to", d.gateway, "-rate", loadRate, "-duration", "15m", "-json")
	var said bytes.Buffer
	shoppers.Stdout, shoppers.Stderr = &said, os.Stderr
	if err := shoppers.Start(); err != nil {
		return err
	}
	defer shoppers.Process.Kill()
	fmt.Println("customers are shopping:", loadRate, "visits per second")
	time.Sleep(around)
	began := time.Now()
	if err := d.show(ctx, gantry, "up", shop, "-f", secondFix, "--data-dir", d.dataDir); err != nil {
		return err
	}
	took := time.Since(began)
	time.Sleep(around)
	if err := shoppers.Process.Signal(os.Interrupt); err != nil {
		return err
	}
	if err := shoppers.Wait(); err != nil {
		return err
	}
	var r report
	if err := json.Unmarshal(said.Bytes(), &r); err != nil {
		return fmt.Errorf("read the load report %q: %w", said.String(), err)
	}
	fmt.Printf("%d requests, %d failed, %d orders; p50 %.1f ms, p99 %.1f ms; answered by version: %v\n",
		r.Requests, r.Failed, r.Orders, r.P50ms, r.P99ms, r.ByVersion)
	d.table.add(fmt.Sprintf("Storefront 1 → 2 under load: %d requests, %d orders", r.Requests, r.Orders), seconds(took), fmt.Sprintf("%d failed", r.Failed))
	switch {
	case r.Failed > 0:
		return fmt.Errorf("%d requests failed: %v", r.Failed, r.Reasons)
	case r.ByVersion["1"] == 0 || r.ByVersion["2"] == 0:
		return fmt.Errorf("customers should have seen both versions, they saw %v", r.ByVersion)
	}
	if said, err := d.load(ctx, "find", d.order, d.buyer); err != nil {
		return fmt.Errorf("the order is LOST: %s: %w", said, err)
	}
	return nil
}

// show runs a command whose output belongs to the demo.
func (d *demo) show(ctx context.Context, name string, args ...string) error {
	fmt.Printf("\x1b[2m$ %s %s\x1b[0m\n", name, strings.Join(args, " "))
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s %s: %w", name, args[0], err)
	}
	return nil
}

// load runs the load generator and returns what it says.
func (d *demo) load(ctx context.Context, verb string, args ...string) (string, error) {
	out, err := exec.CommandContext(ctx, shopLoad, append([]string{verb, "-to", d.gateway}, args...)...).Output()
	var failed *exec.ExitError
	if errors.As(err, &failed) {
		return "", errors.New(strings.TrimSpace(string(failed.Stderr)))
	}
	return strings.TrimSpace(string(out)), err
}

func (d *demo) whatNext() {
	url := "http://shop.localhost:" + d.gateway[strings.LastIndex(d.gateway, ":")+1:] + "/"
	data := ""
	if d.dataDir != "/var/lib/gantry" {
		data = " --data-dir " + d.dataDir
	}
	fmt.Printf(`
The shop is yours:   %s
Look around:         %s status%s
                     KUBECONFIG=%s kubectl -n %s get pods
Stop everything:     %s down --all%s
`, strings.Replace(url, ":80/", "/", 1), gantry, data, filepath.Join(d.dataDir, "kubeconfig"), namespace, gantry, data)
}
