package logs

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/gantryhq/gantry/services/logs/crilog"
)

// follower fills the spool with what the API tells of the logs of all containers: one request for each that runs.
// It is for clusters, where the files of the nodes are out of reach. The API does not say which lines went to
// stderr, and has the times of lines, by which a request that broke off goes on.
type follower struct {
	client kubernetes.Interface
	spool  *spool
	pods   func() []*corev1.Pod
	drain  func(path string) // has what is in a directory of the spool archived
	log    *slog.Logger

	mu   sync.Mutex
	runs map[runOf]*followed
}

// runOf is one run of a container.
type runOf struct {
	pod       crilog.Pod
	container string
	run       int
}

// followed is how far a run has been read.
type followed struct{ done bool }

const (
	// followInterval is how soon a new container is followed.
	followInterval = time.Second
	// reconnectPause is how long it is waited after a request has ended that should not have.
	reconnectPause = time.Second
)

// run follows until ctx ends.
func (f *follower) run(ctx context.Context) {
	var wait sync.WaitGroup
	defer wait.Wait()
	for {
		f.look(ctx, &wait)
		select {
		case <-ctx.Done():
			return
		case <-time.After(followInterval):
		}
	}
}

// look begins to follow new runs, and removes what is left of pods that are gone.
func (f *follower) look(ctx context.Context, wait *sync.WaitGroup) {
	present := map[crilog.Pod]bool{}
	for _, pod := range f.pods() {
		p := crilog.Pod{Namespace: pod.Namespace, Name: pod.Name, UID: string(pod.UID)}
		present[p] = true
		for _, list := range [][]corev1.ContainerStatus{pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses, pod.Status.EphemeralContainerStatuses} {
			for _, c := range list {
				run := int(c.RestartCount)
				if run > 0 && c.LastTerminationState.Terminated != nil {
					f.begin(ctx, wait, runOf{p, c.Name, run - 1}, true)
				}
				if c.State.Running != nil || c.State.Terminated != nil {
					f.begin(ctx, wait, runOf{p, c.Name, run}, false)
				}
			}
		}
	}
	f.tidy(present)
}

func (f *follower) begin(ctx context.Context, wait *sync.WaitGroup, r runOf, former bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.runs[r] != nil {
		return
	}
	state := &followed{}
	f.runs[r] = state
	wait.Go(func() {
		err := f.follow(ctx, r, former)
		if err != nil && ctx.Err() == nil {
			f.log.Warn("cannot follow a log", "pod", r.pod.Namespace+"/"+r.pod.Name, "container", r.container, "err", err)
		}
		f.mu.Lock()
		defer f.mu.Unlock()
		state.done = true
	})
}

// tidy archives and removes the spooled logs of pods that are gone, when all of them has been read.
func (f *follower) tidy(present map[crilog.Pod]bool) {
	f.mu.Lock()
	busy := map[crilog.Pod]bool{}
	for r, state := range f.runs {
		busy[r.pod] = busy[r.pod] || !state.done
	}
	for r := range f.runs {
		if !present[r.pod] && !busy[r.pod] {
			delete(f.runs, r)
		}
	}
	f.mu.Unlock()
	entries, _ := os.ReadDir(f.spool.dir) // not there yet
	for _, e := range entries {
		p, ok := crilog.ParsePod(e.Name())
		if !ok || p.UID == timelinePod || present[p] || busy[p] {
			continue
		}
		dir := filepath.Join(f.spool.dir, e.Name())
		f.spool.close(dir)
		f.drain(dir)
		if err := os.RemoveAll(dir); err != nil {
			f.log.Warn("cannot remove the spooled log of a pod that is gone", "err", err)
		}
	}
}

// follow reads one run until it has ended.
func (f *follower) follow(ctx context.Context, r runOf, former bool) error {
	for ctx.Err() == nil {
		err := f.read(ctx, r, former)
		if former || !f.goesOn(r) {
			return err
		}
		select {
		case <-ctx.Done():
		case <-time.After(reconnectPause):
		}
	}
	return nil
}

// goesOn tells whether a run may write more.
func (f *follower) goesOn(r runOf) bool {
	for _, pod := range f.pods() {
		if string(pod.UID) != r.pod.UID {
			continue
		}
		for _, list := range [][]corev1.ContainerStatus{pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses, pod.Status.EphemeralContainerStatuses} {
			for _, c := range list {
				if c.Name == r.container {
					return int(c.RestartCount) == r.run && c.State.Terminated == nil
				}
			}
		}
	}
	return false
}

// read makes one request for the lines after those that are spooled.
func (f *follower) read(ctx context.Context, r runOf, former bool) error {
	last, shown, err := f.lastOf(r)
	if err != nil {
		return err
	}
	o := &corev1.PodLogOptions{Container: r.container, Follow: !former, Previous: former, Timestamps: true}
	if last > 0 {
		since := metav1.NewTime(time.Unix(0, last)) // of which the API takes the seconds
		o.SinceTime = &since
	}
	stream, err := f.client.CoreV1().Pods(r.pod.Namespace).GetLogs(r.pod.Name, o).Stream(ctx)
	if err != nil {
		return err
	}
	defer stream.Close()
	return f.copy(r, bufio.NewReaderSize(stream, 16<<10), last, shown)
}

// copy spools lines that are later than a time, or among those of that time come after so many.
func (f *follower) copy(r runOf, from *bufio.Reader, last int64, shown int) error {
	var at []byte // of the line of which a piece has been read
	skipping := false
	for {
		b, err := from.ReadSlice('\n')
		whole := err == nil
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			if errors.Is(err, io.EOF) && len(b) == 0 {
				return nil
			}
			if !errors.Is(err, io.EOF) {
				return err
			}
			whole = true // a last line without an end
		}
		text := bytes.TrimSuffix(b, []byte{'\n'})
		if at == nil {
			stamp, rest, _ := bytes.Cut(text, []byte{' '})
			when, ok := crilog.ParseTime(stamp)
			if !ok {
				return fmt.Errorf("the API sends a line without a time: %.40q", text)
			}
			at, text = bytes.Clone(stamp), rest
			if skipping = when < last || when == last && shown > 0; when == last {
				shown--
			}
		}
		if !skipping {
			tag := " stdout P "
			if whole {
				tag = " stdout F "
			}
			if err := f.spool.put(r.pod, r.container, r.run, fmt.Appendf(nil, "%s%s%s\n", at, tag, text)); err != nil {
				return err
			}
		}
		if whole {
			at = nil
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
	}
}

// lastOf is the time of the last line of a run that is spooled, and how many lines of that time there are.
func (f *follower) lastOf(r runOf) (last int64, count int, err error) {
	files, err := crilog.Files(filepath.Join(f.spool.dir, r.pod.Namespace+"_"+r.pod.Name+"_"+r.pod.UID, r.container))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, 0, nil
	}
	for i := len(files) - 1; err == nil && i >= 0; i-- {
		if files[i].Run != r.run {
			continue
		}
		var text []byte
		if text, err = os.ReadFile(files[i].Path); err != nil { // a few MiB at most
			break
		}
		crilog.Lines(text, func(e crilog.Entry) bool {
			if e.Time > last {
				last, count = e.Time, 0
			}
			if e.Time == last {
				count++
			}
			return true
		})
		if last > 0 {
			break
		}
	}
	return last, count, err
}
