// Package crash treats a running Gantry badly and checks that nothing
// acknowledged is lost and that what runs keeps running: kill -9 at random
// moments, a full disk, a damaged database.
package crash

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/gantryhq/gantry/internal/testenv"
	"github.com/gantryhq/gantry/test/instance"
)

const namespace = "default"

func TestAKilledServeLosesNoAcknowledgedWrite(t *testing.T) {
	testenv.NeedContainers(t)
	testenv.LongRunning(t)
	in := instance.Start(t, instance.Options{})
	var written atomic.Int64
	for round := range 5 {
		stop := make(chan struct{})
		client := in.Client(t)
		for writer := range 8 {
			go write(client, round, writer, stop, &written)
		}
		before := written.Load()
		waitFor(t, 20*time.Second, "the first acknowledged writes", func() bool { return written.Load() > before+20 })
		<-time.After(time.Duration(rand.IntN(300)) * time.Millisecond) // the random moment
		in.Stop(t, syscall.SIGKILL)
		close(stop)
		in.Serve(t)
	}
	maps, err := in.Client(t).CoreV1().ConfigMaps(namespace).List(context.Background(), metav1.ListOptions{LabelSelector: "test=crash"})
	if err != nil {
		t.Fatal(err)
	}
	if got := int64(len(maps.Items)); got < written.Load() {
		t.Errorf("%d writes were acknowledged, %d are there", written.Load(), got)
	}
	t.Logf("%d acknowledged writes survived 5 kills", written.Load())
}

// write creates objects as fast as they are acknowledged.
func write(c kubernetes.Interface, round, writer int, stop <-chan struct{}, written *atomic.Int64) {
	for i := 0; ; i++ {
		select {
		case <-stop:
			return
		default:
		}
		cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("w-%d-%d-%d", round, writer, i), Labels: map[string]string{"test": "crash"}}}
		if _, err := c.CoreV1().ConfigMaps(namespace).Create(context.Background(), cm, metav1.CreateOptions{}); err != nil {
			return
		}
		written.Add(1)
	}
}

func TestContainersOutliveServe(t *testing.T) {
	testenv.NeedContainers(t)
	testenv.LongRunning(t)
	in := instance.Start(t, instance.Options{})
	in.BaseImages(t)
	ctx := context.Background()
	pods := in.Client(t).CoreV1().Pods(namespace)
	_, err := pods.Create(ctx, &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "counter"},
		Spec: corev1.PodSpec{
			TerminationGracePeriodSeconds: new(int64),
			Containers: []corev1.Container{{
				Name: "counter", Image: in.Registry + "/base/busybox:latest",
				Command: []string{"sh", "-c", "i=0; while true; do i=$((i+1)); echo $i; sleep 0.02; done"},
			}},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var before *corev1.Pod
	waitFor(t, time.Minute, "the pod to run", func() bool {
		before, err = pods.Get(ctx, "counter", metav1.GetOptions{})
		return err == nil && before.Status.Phase == corev1.PodRunning
	})
	for range 3 {
		in.Stop(t, syscall.SIGKILL)
		in.Serve(t)
	}
	pods = in.Client(t).CoreV1().Pods(namespace)
	// What the node last knew may not have reached the disk: it says it again.
	var after *corev1.Pod
	waitFor(t, time.Minute, "the pod's status to be told again", func() bool {
		after, err = pods.Get(ctx, "counter", metav1.GetOptions{})
		return err == nil && len(after.Status.ContainerStatuses) == 1 && after.Status.ContainerStatuses[0].ContainerID != ""
	})
	was, is := before.Status.ContainerStatuses[0], after.Status.ContainerStatuses[0]
	if is.ContainerID != was.ContainerID || is.RestartCount != 0 {
		t.Errorf("the container was %s, is %s after %d restarts", was.ContainerID, is.ContainerID, is.RestartCount)
	}
	if after.Status.PodIP != before.Status.PodIP {
		t.Errorf("the pod had address %s, now %s", before.Status.PodIP, after.Status.PodIP)
	}
	log, err := pods.GetLogs("counter", &corev1.PodLogOptions{}).DoRaw(ctx)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Fields(string(log))
	for i, line := range lines {
		if n, err := strconv.Atoi(line); err != nil || n != i+1 {
			t.Fatalf("log line %d is %q: a line was lost or is there twice", i+1, line)
		}
	}
	if len(lines) < 20 {
		t.Errorf("only %d lines were logged over three restarts", len(lines))
	}
}

func TestAFullDiskRefusesWritesAndRecovers(t *testing.T) {
	testenv.NeedContainers(t)
	testenv.LongRunning(t)
	dir := instance.SmallDisk(t, 192)
	in := instance.Start(t, instance.Options{DataDir: dir})
	ctx, maps := context.Background(), in.Client(t).CoreV1().ConfigMaps(namespace)
	create := func(name string) error {
		_, err := maps.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name},
			Data: map[string]string{"x": strings.Repeat("x", 100_000)}}, metav1.CreateOptions{})
		return err
	}
	filler := filepath.Join(dir, "filler")
	fillDisk(t, filler)
	acknowledged := 0
	var refusal error
	for i := 0; i < 2000 && refusal == nil; i++ {
		if refusal = create(fmt.Sprintf("full-%d", i)); refusal == nil {
			acknowledged++
		}
	}
	if refusal == nil {
		t.Fatal("200 MB were written on a full disk")
	}
	if !strings.Contains(refusal.Error(), "no space left") {
		t.Errorf("the refusal does not say why: %v", refusal)
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	waitFor(t, 20*time.Second, "writes to be accepted again", func() bool { return create("after") == nil })
	in.Stop(t, syscall.SIGKILL)
	in.Serve(t)
	for i := range acknowledged {
		if _, err := in.Client(t).CoreV1().ConfigMaps(namespace).Get(ctx, fmt.Sprintf("full-%d", i), metav1.GetOptions{}); err != nil {
			t.Errorf("an acknowledged write is lost: %v", err)
		}
	}
	t.Logf("%d writes were acknowledged before the disk was full; refusal: %v", acknowledged, refusal)
}

// fillDisk writes until there is no space left.
func fillDisk(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for block := make([]byte, 1<<16); ; {
		if _, err := f.Write(block); errors.Is(err, syscall.ENOSPC) {
			return
		} else if err != nil {
			t.Fatal(err)
		}
	}
}

func TestADamagedDatabaseIsRefusedAndKept(t *testing.T) {
	testenv.NeedContainers(t)
	testenv.LongRunning(t)
	in := instance.Start(t, instance.Options{})
	ctx, treasure := context.Background(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "treasure"}}
	if _, err := in.Client(t).CoreV1().ConfigMaps(namespace).Create(ctx, treasure, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	backup := filepath.Join(in.DataDir, "before.db") // on the same file system
	in.Run(t, "backup", backup)
	in.Stop(t, syscall.SIGTERM)
	path := filepath.Join(in.DataDir, "state.db")
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	damaged := bytes.Clone(whole)
	for i := range 3 * os.Getpagesize() {
		damaged[i] ^= 0x5a
	}
	if err := os.WriteFile(path, damaged, 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(in.Program, "serve", "--data-dir", in.DataDir, "--api-listen", in.API,
		"--registry-listen", in.Registry, "--gateway-listen", in.Gateway).CombinedOutput()
	if err == nil {
		t.Fatal("gantry serve started on a damaged database")
	}
	for _, want := range []string{"error:", path, "hint:", "restore"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("the refusal does not mention %q:\n%s", want, out)
		}
	}
	if now, err := os.ReadFile(path); err != nil || !bytes.Equal(now, damaged) {
		t.Errorf("the damaged file was touched (%v)", err)
	}
	if err := os.Rename(backup, path); err != nil {
		t.Fatal(err)
	}
	in.Serve(t)
	if _, err := in.Client(t).CoreV1().ConfigMaps(namespace).Get(ctx, treasure.Name, metav1.GetOptions{}); err != nil {
		t.Errorf("after the backup was restored: %v", err)
	}
}

func waitFor(t *testing.T, limit time.Duration, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(limit); !done(); <-time.After(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited %s for %s", limit, what)
		}
	}
}
