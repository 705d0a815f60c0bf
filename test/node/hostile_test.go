package node

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/gantryhq/gantry/test/instance"
	"github.com/gantryhq/gantry/test/leak"
)

const (
	// logBound is what the log of one container may take: five files of 10 MiB, and
	// what is written between two files.
	logBound = 52 << 20
	// shimBound is what the shim may take whatever containers write.
	shimBound = 48 << 20
)

// TestHostileContainers runs containers that mean no good beside one that serves
// requests. Each is bounded, says why it ended, and goes when it is told to; the
// neighbour answers all the time.
func TestHostileContainers(t *testing.T) {
	c := start(t, instance.Options{})
	c.BaseImages(t)
	n := c.neighbour()
	for _, h := range []struct {
		name string
		does func(*cluster)
	}{
		{"forks without end", forksWithoutEnd},
		{"floods its log", floodsItsLog},
		{"writes a line without end", endlessLine},
		{"ignores SIGTERM", ignoresTerm},
		{"eats memory", eatsMemory},
		{"fills its emptyDir", fillsItsVolume},
		{"opens connections", n.opensConnections},
		{"opens files", opensFiles},
	} {
		t.Run(h.name, func(t *testing.T) {
			hostile := *c
			hostile.t = t
			n.begin(t)
			h.does(&hostile)
			n.check(t)
			hostile.clear()
			leak.Check(t, c)
		})
	}
}

// sh is a pod of one shell.
func (c *cluster) sh(name, script string) *v1.Pod {
	p := pod(name, c.Registry+"/base/busybox:latest", "sh", "-c", script)
	c.create(p)
	return p
}

// clear deletes all pods but the neighbour.
func (c *cluster) clear() {
	c.t.Helper()
	pods := c.client.CoreV1().Pods(namespace)
	if err := pods.DeleteCollection(c.t.Context(), metav1.DeleteOptions{}, metav1.ListOptions{LabelSelector: "app!=neighbour"}); err != nil {
		c.t.Fatal(err)
	}
	for deadline := time.Now().Add(60 * time.Second); ; <-time.After(50 * time.Millisecond) {
		list, err := pods.List(c.t.Context(), metav1.ListOptions{LabelSelector: "app!=neighbour"})
		if err == nil && len(list.Items) == 0 {
			return
		}
		if time.Now().After(deadline) {
			c.t.Fatalf("the hostile pod does not go (%v): %+v", err, list.Items[0].Status)
		}
	}
}

func forksWithoutEnd(c *cluster) {
	c.sh("bomb", "f() { f | f & }; f; sleep 86400")
	p := c.until("bomb", "running", running)
	most := 0
	for deadline := time.Now().Add(4 * time.Second); time.Now().Before(deadline); <-time.After(100 * time.Millisecond) {
		most = max(most, c.groupNumber(p, "pids", "pids.current"))
	}
	limit := c.groupNumber(p, "pids", "pids.max")
	if limit == 0 || most > limit || most < 100 {
		c.t.Errorf("the bomb had %d processes, its limit is %d", most, limit)
	}
}

func floodsItsLog(c *cluster) {
	c.sh("flood", "yes 'a line that says nothing, again and again and again and again and again and again'")
	p := c.until("flood", "running", running)
	var largest int64
	for deadline := time.Now().Add(6 * time.Second); time.Now().Before(deadline); <-time.After(50 * time.Millisecond) {
		largest = max(largest, c.logBytes(p))
	}
	if largest > logBound || largest < 20<<20 {
		c.t.Errorf("the log took %d MiB", largest>>20)
	}
	c.smallShim()
	tail := int64(1)
	log, err := c.client.CoreV1().Pods(namespace).GetLogs("flood", &v1.PodLogOptions{TailLines: &tail}).DoRaw(c.t.Context())
	if err != nil || !strings.HasPrefix(string(log), "a line that says nothing") {
		c.t.Errorf("the end of the log is %.80q, %v", log, err)
	}
}

func endlessLine(c *cluster) {
	p := pod("line", c.Registry+"/base/busybox:latest", "sh", "-c", "head -c 256000000 /dev/zero | tr '\\0' x; exit 7")
	p.Spec.RestartPolicy = v1.RestartPolicyNever
	c.create(p)
	var largest int64
	c.until("line", "over", func(p *v1.Pod) bool {
		largest = max(largest, c.logBytes(p))
		return p.Status.Phase == v1.PodFailed && p.Status.ContainerStatuses[0].State.Terminated.ExitCode == 7
	})
	if largest > logBound || largest < 20<<20 {
		c.t.Errorf("the log took %d MiB", largest>>20)
	}
	c.smallShim()
}

func ignoresTerm(c *cluster) {
	p := pod("deaf", c.Registry+"/base/busybox:latest", "sh", "-c", "trap '' TERM; while true; do sleep 1; done")
	grace := int64(2)
	p.Spec.TerminationGracePeriodSeconds = &grace
	c.create(p)
	c.until("deaf", "running", running)
	began := time.Now()
	if err := c.client.CoreV1().Pods(namespace).Delete(c.t.Context(), "deaf", metav1.DeleteOptions{}); err != nil {
		c.t.Fatal(err)
	}
	c.clear()
	if took := time.Since(began); took < time.Duration(grace)*time.Second {
		c.t.Errorf("it was gone after %s, before its grace period was over", took)
	}
}

func eatsMemory(c *cluster) {
	p := pod("eater", c.Registry+"/base/busybox:latest", "sh", "-c", "tail /dev/zero")
	p.Spec.Containers[0].Resources.Limits = v1.ResourceList{v1.ResourceMemory: resource.MustParse("32Mi")}
	c.create(p)
	c.until("eater", "killed for want of memory", func(p *v1.Pod) bool {
		if len(p.Status.ContainerStatuses) == 0 {
			return false
		}
		last := p.Status.ContainerStatuses[0].LastTerminationState.Terminated
		return last != nil && last.Reason == "OOMKilled" && last.ExitCode == 137
	})
	p = c.until("eater", "backing off", func(p *v1.Pod) bool { return waiting(p).Reason == "CrashLoopBackOff" })
	if restarts := p.Status.ContainerStatuses[0].RestartCount; restarts > 3 {
		c.t.Errorf("it was started %d times before it was held back", restarts)
	}
}

func fillsItsVolume(c *cluster) {
	p := pod("filler", c.Registry+"/base/busybox:latest", "sh", "-c", "dd if=/dev/zero of=/data/file bs=1M count=20; sleep 86400")
	limit := resource.MustParse("4Mi")
	withVolume(p, &limit)
	c.create(p)
	c.evicted("filler", `Usage of EmptyDir volume "data" exceeds the limit "4Mi"`)
}

func opensFiles(c *cluster) {
	// One process with as many descriptors as it may have, and a watch for each.
	c.sh("opener", `i=3; while [ $i -lt 1000000 ] && eval "exec $i</dev/null"; do i=$((i+1)); done 2>/dev/null; echo full; sleep 86400`)
	c.until("opener", "running", running)
	<-time.After(3 * time.Second) // of opening, while the neighbour is measured
}

// groupNumber reads a number of the container's control group, 0 when there is none.
func (c *cluster) groupNumber(p *v1.Pod, controller, file string) int {
	_, id, _ := strings.Cut(p.Status.ContainerStatuses[0].ContainerID, "://")
	var found []string
	for _, root := range []string{"/sys/fs/cgroup/" + controller, "/sys/fs/cgroup"} {
		for _, between := range []string{"", "*/", "*/*/"} {
			more, _ := filepath.Glob(root + "/gantry-*/" + between + id + "/" + file)
			found = append(found, more...)
		}
	}
	if len(found) == 0 {
		return 0
	}
	text, _ := os.ReadFile(found[0])
	n, _ := strconv.Atoi(strings.TrimSpace(string(text)))
	return n
}

func (c *cluster) logBytes(p *v1.Pod) (sum int64) {
	files, _ := filepath.Glob(filepath.Join(c.DataDir, "logs", "pods", "*_"+p.Name+"_*", "*", "*"))
	for _, f := range files {
		if info, err := os.Stat(f); err == nil {
			sum += info.Size()
		}
	}
	return sum
}

// smallShim bounds the memory that the shim ever took.
func (c *cluster) smallShim() {
	c.t.Helper()
	pid, err := os.ReadFile(filepath.Join(c.DataDir, "run", "shim.lock"))
	check(c.t, err)
	status, err := os.ReadFile("/proc/" + string(bytes.TrimSpace(pid)) + "/status")
	check(c.t, err)
	_, rest, _ := strings.Cut(string(status), "VmHWM:")
	kib, err := strconv.Atoi(strings.Fields(rest)[0])
	if check(c.t, err); kib<<10 > shimBound {
		c.t.Errorf("the shim took %d MiB", kib>>10)
	}
	c.t.Logf("the shim took %d MiB at most", kib>>10)
}

// neighbour is a pod that serves while others misbehave.
type neighbour struct {
	c      *cluster
	ip     string
	client *http.Client
	stop   context.CancelFunc
	done   sync.WaitGroup
	took   []time.Duration
	failed []error
}

func (c *cluster) neighbour() *neighbour {
	c.t.Helper()
	p := pod("neighbour", c.Registry+"/base/busybox:latest", "sh", "-c", "mkdir /www; echo fine > /www/index.html; exec httpd -f -p 8080 -h /www")
	p.Labels = map[string]string{"app": "neighbour"}
	p.Spec.Containers[0].Resources.Requests = v1.ResourceList{v1.ResourceCPU: resource.MustParse("500m")}
	p.Spec.Containers[0].LivenessProbe = &v1.Probe{PeriodSeconds: 1, TimeoutSeconds: 5, ProbeHandler: v1.ProbeHandler{Exec: &v1.ExecAction{Command: []string{"true"}}}}
	c.create(p)
	p = c.until("neighbour", "ready", ready)
	n := &neighbour{c: c, ip: p.Status.PodIP, client: &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}}
	// Without a probe, ready is that the container runs, not that it listens.
	for deadline := time.Now().Add(30 * time.Second); n.ask() != nil; <-time.After(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			c.t.Fatalf("the neighbour does not answer: %v", n.ask())
		}
	}
	return n
}

// begin measures until check, or the end of the test.
func (n *neighbour) begin(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	n.stop, n.took, n.failed = stop, nil, nil
	t.Cleanup(func() { stop(); n.done.Wait() })
	n.done.Go(func() {
		for ctx.Err() == nil {
			began := time.Now()
			if err := n.ask(); err != nil {
				n.failed = append(n.failed, err)
			}
			n.took = append(n.took, time.Since(began))
			<-time.After(20 * time.Millisecond)
		}
	})
}

func (n *neighbour) ask() error {
	resp, err := n.client.Get("http://" + n.ip + ":8080/")
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && string(body) != "fine\n" {
		err = fmt.Errorf("%s %q", resp.Status, body)
	}
	return err
}

// check ends the measuring: no request failed, the neighbour was never restarted,
// and the API answers.
func (n *neighbour) check(t *testing.T) {
	t.Helper()
	began := time.Now()
	p := n.c.until("neighbour", "ready", ready)
	api := time.Since(began)
	n.stop()
	n.done.Wait()
	if p.Status.ContainerStatuses[0].RestartCount != 0 {
		t.Errorf("the neighbour was restarted: %+v", p.Status.ContainerStatuses[0])
	}
	if len(n.failed) > 0 {
		t.Errorf("%d of %d requests to the neighbour failed: %v", len(n.failed), len(n.took), n.failed[0])
	}
	slices.Sort(n.took)
	t.Logf("neighbour: %d requests, median %s, longest %s; the API answers in %s",
		len(n.took), n.took[len(n.took)/2].Round(time.Millisecond/10), n.took[len(n.took)-1].Round(time.Millisecond), api.Round(time.Millisecond))
}

// opensConnections holds connections to the neighbour until it may have no more.
func (n *neighbour) opensConnections(c *cluster) {
	c.sh("caller", "i=0; while [ $i -lt 300 ]; do sleep 86400 | nc "+n.ip+" 8080 & i=$((i+1)); done; echo held; wait")
	c.until("caller", "running", running)
	for deadline := time.Now().Add(60 * time.Second); ; <-time.After(100 * time.Millisecond) {
		log, err := c.client.CoreV1().Pods(namespace).GetLogs("caller", &v1.PodLogOptions{}).DoRaw(c.t.Context())
		if err == nil && strings.Contains(string(log), "held") {
			return
		}
		if time.Now().After(deadline) {
			c.t.Fatalf("the connections are not there: %q, %v", log, err)
		}
	}
}
