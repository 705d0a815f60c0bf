// Package leak finds what an instance has left in the kernel and on its disk.
//
// It takes stock of everything that may belong to one data directory: processes,
// control groups in every hierarchy, mounts in every mount namespace, the bridge
// with its ports and neighbours, nftables elements, address leases, root
// directories, volumes, descriptors of the long-lived processes. Each thing names
// its owner by a UID or an address; [Check] compares the owners with what the API
// says exists, [Gone] expects that there is nothing.
//
// The stock is taken from outside, with the kernel's own interfaces and knowledge
// of docs/formats, never by asking the program under test. Only tests import it.
package leak

import (
	"context"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// patience is how long things may take to go after the API says that they went:
// interface pairs whose namespace lingers are swept after ten seconds.
const patience = 30 * time.Second

// Instance is what the check must know of a running Gantry.
type Instance interface {
	Directory() string // its data directory
	Client(testing.TB) *kubernetes.Clientset
}

// Thing is something in the kernel or on the disk that belongs to an instance.
type Thing struct {
	Kind string // "process", "cgroup", "mount", ...
	Name string
	// Owner is the UID of the pod or volume that it is for, "" for the instance's own.
	Owner string
	// Address is the address of the pod or service that it is for, if it has one.
	Address netip.Addr
	// Kept says that it may stay until the owner is deleted, though it has ended.
	Kept bool
}

func (t Thing) String() string { return t.Kind + " " + t.Name }

// Check fails the test when something belongs to no pod, volume or service of the
// API. It waits for what is on its way out.
func Check(t testing.TB, in Instance) {
	t.Helper()
	client := in.Client(t)
	var left []Thing
	for deadline := time.Now().Add(patience); ; <-time.After(200 * time.Millisecond) {
		world, err := ask(t.Context(), client)
		if err == nil {
			if left, err = find(in.Directory(), world); err == nil && len(left) == 0 {
				return
			}
		}
		if time.Now().After(deadline) {
			if err != nil {
				t.Fatalf("look for leaks: %v", err)
			}
			break
		}
	}
	for _, thing := range left {
		t.Errorf("leaked: %s", thing)
	}
}

// Gone names everything of a data directory that is in the kernel: nothing may be
// there after `gantry down --all`.
func Gone(dir string) ([]Thing, error) {
	all, err := stock(dir)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(all, func(t Thing) bool { return onDisk[t.Kind] }), nil
}

// onDisk are the kinds that are data and stay after `gantry down --all`.
var onDisk = map[string]bool{
	"root directory": true, "root mount point": true, "pod directory": true, "log directory": true, "volume": true,
}

// find returns the things whose owner does not exist.
func find(dir string, world *world) ([]Thing, error) {
	all, err := stock(dir)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(all, world.accounts), nil
}

// world is what the API says exists.
type world struct {
	running   map[string]bool // UIDs of pods that have not ended, and of volumes
	known     map[string]bool // also of pods that have ended
	addresses map[netip.Addr]bool
}

// accounts reports whether the API explains a thing.
func (w *world) accounts(t Thing) bool {
	switch {
	case t.Kind == "zombie":
		return false
	case t.Owner != "" && t.Kept:
		return w.known[t.Owner]
	case t.Owner != "":
		return w.running[t.Owner]
	case t.Address.IsValid():
		return w.addresses[t.Address]
	}
	return true
}

func ask(ctx context.Context, c kubernetes.Interface) (*world, error) {
	w := &world{running: map[string]bool{}, known: map[string]bool{}, addresses: map[netip.Addr]bool{}}
	pods, err := c.CoreV1().Pods("").List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("list pods: %w", err)
	}
	for i := range pods.Items {
		w.addPod(&pods.Items[i])
	}
	volumes, err := c.CoreV1().PersistentVolumes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("list volumes: %w", err)
	}
	for i := range volumes.Items {
		for _, uid := range uids.FindAllString(volumes.Items[i].Name, -1) {
			w.running[uid], w.known[uid] = true, true
		}
	}
	services, err := c.CoreV1().Services("").List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("list services: %w", err)
	}
	for i := range services.Items {
		w.addAddresses(services.Items[i].Spec.ClusterIPs...)
	}
	return w, nil
}

func (w *world) addPod(p *v1.Pod) {
	uid := string(p.UID)
	w.known[uid] = true
	if p.Status.Phase == v1.PodSucceeded || p.Status.Phase == v1.PodFailed {
		return
	}
	w.running[uid] = true
	for _, ip := range p.Status.PodIPs {
		w.addAddresses(ip.IP)
	}
}

func (w *world) addAddresses(list ...string) {
	for _, s := range list {
		if ip, err := netip.ParseAddr(s); err == nil {
			w.addresses[ip] = true
		}
	}
}

var uids = regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}`)

// owned is a thing whose name contains the UID of its owner, if it has one.
func owned(kind, name string) Thing {
	return Thing{Kind: kind, Name: name, Owner: uids.FindString(name)}
}

// below reports whether path is dir or in it.
func below(path, dir string) bool { return path == dir || strings.HasPrefix(path, dir+"/") }
