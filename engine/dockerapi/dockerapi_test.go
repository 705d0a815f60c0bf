package dockerapi

import (
	"archive/tar"
	"bytes"
	"errors"
	"io/fs"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	types "github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestVersionsOfTheAPI(t *testing.T) {
	for version, ok := range map[string]bool{"1.24": true, "1.51": true, "1.40": true, "1.23": false, "1.52": false, "2.0": false} {
		major, minor, _ := strings.Cut(version, ".")
		if err := checkVersion(major, minor); (err == nil) != ok {
			t.Errorf("version %s: %v", version, err)
		}
	}
}

// An archive may not write, link or follow links outside of the directory it goes to.
func TestHostileArchives(t *testing.T) {
	for name, headers := range map[string][]tar.Header{
		"a name that leads out":            {{Name: "../evil", Typeflag: tar.TypeReg}},
		"a name that leads out further in": {{Name: "a/../../evil", Typeflag: tar.TypeReg}},
		"a link and a file behind it":      {{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "OUTSIDE"}, {Name: "l/evil", Typeflag: tar.TypeReg}},
		"a relative link out":              {{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "../"}, {Name: "l/evil", Typeflag: tar.TypeReg}},
		"a hard link out":                  {{Name: "evil", Typeflag: tar.TypeLink, Linkname: "../secret"}},
		"a hard link through a link":       {{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "OUTSIDE"}, {Name: "evil", Typeflag: tar.TypeLink, Linkname: "l/secret"}},
		"too many files":                   {{Name: "a", Typeflag: tar.TypeReg}, {Name: "b", Typeflag: tar.TypeReg}, {Name: "c", Typeflag: tar.TypeReg}, {Name: "d", Typeflag: tar.TypeReg}},
	} {
		t.Run(name, func(t *testing.T) {
			outside := t.TempDir()
			secret := filepath.Join(outside, "secret")
			if err := os.WriteFile(secret, []byte("secret"), 0o600); err != nil {
				t.Fatal(err)
			}
			dir := filepath.Join(outside, "into")
			if err := os.Mkdir(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			root, err := os.OpenRoot(dir)
			if err != nil {
				t.Fatal(err)
			}
			defer root.Close()
			for i := range headers {
				headers[i].Linkname = strings.ReplaceAll(headers[i].Linkname, "OUTSIDE", outside)
				headers[i].Uid, headers[i].Gid = os.Getuid(), os.Getgid()
			}
			err = unpack(archiveOf(t, headers), root, unpackLimits{files: 3})
			var refused *apiError
			if !errors.As(err, &refused) && !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("got %v", err)
			}
			if _, err := os.Lstat(filepath.Join(outside, "evil")); err == nil {
				t.Error("a file was written outside")
			}
			if blob, err := os.ReadFile(filepath.Join(dir, "evil")); err == nil && string(blob) == "secret" {
				t.Error("a file from outside came in")
			}
		})
	}
}

func TestArchivesAreUnpackedWithModesAndLinks(t *testing.T) {
	dir := t.TempDir()
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	me := func(h tar.Header) tar.Header { h.Uid, h.Gid = os.Getuid(), os.Getgid(); return h }
	in := archiveOf(t, []tar.Header{me(tar.Header{Name: "d/", Typeflag: tar.TypeDir, Mode: 0o750}), me(tar.Header{Name: "d/f", Typeflag: tar.TypeReg, Mode: 0o4755}),
		me(tar.Header{Name: "d/s", Typeflag: tar.TypeSymlink, Linkname: "/etc/passwd"}), me(tar.Header{Name: "h", Typeflag: tar.TypeLink, Linkname: "d/f"})})
	if err := unpack(in, root, unpackLimits{}); err != nil {
		t.Fatal(err)
	}
	f, err := os.Stat(filepath.Join(dir, "d/f"))
	if err != nil || f.Mode().Perm() != 0o755 || f.Mode()&fs.ModeSetuid == 0 {
		t.Errorf("d/f is %v, %v", f.Mode(), err)
	}
	if to, err := os.Readlink(filepath.Join(dir, "d/s")); err != nil || to != "/etc/passwd" {
		t.Errorf("d/s leads to %q, %v", to, err)
	}
	h, err := os.Stat(filepath.Join(dir, "h"))
	if err != nil || !os.SameFile(f, h) {
		t.Errorf("h is not d/f: %v", err)
	}
}

func archiveOf(t *testing.T, headers []tar.Header) *bytes.Buffer {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for i := range headers {
		if err := w.WriteHeader(&headers[i]); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return &buf
}

func TestWhatCannotBeHonouredIsRefused(t *testing.T) {
	yes := true
	for name, h := range map[string]types.HostConfig{
		"no such device":     {Resources: types.Resources{Devices: []types.DeviceMapping{{PathOnHost: "/dev/nothing-like-it"}}}},
		"a device's rights":  {Resources: types.Resources{Devices: []types.DeviceMapping{{PathOnHost: "/dev/null", CgroupPermissions: "rx"}}}},
		"a rule for devices": {Resources: types.Resources{DeviceCgroupRules: []string{"c 1 rwm"}}},
		"graphics":           {Resources: types.Resources{DeviceRequests: []types.DeviceRequest{{Count: -1}}}},
		"a limit's name":     {Resources: types.Resources{Ulimits: []*types.Ulimit{{Name: "wishes", Soft: 1, Hard: 1}}}},
		"a limit's order":    {Resources: types.Resources{Ulimits: []*types.Ulimit{{Name: "nofile", Soft: 2, Hard: 1}}}},
		"block devices":      {Resources: types.Resources{BlkioWeight: 100}},
		"ports of nobody":    {NetworkMode: "none", PublishAllPorts: true},
		"ports of another":   {NetworkMode: "container:x", PublishAllPorts: true},
		"another's sysctl":   {NetworkMode: "container:x", Sysctls: map[string]string{"net.core.somaxconn": "1"}},
		"our annotations":    {Annotations: map[string]string{annotationExtras: "{}"}},
		"user namespaces":    {UsernsMode: "private"},
		"own masked paths":   {MaskedPaths: []string{"/proc/x"}},
		"a profile":          {SecurityOpt: []string{"seccomp={}"}},
		"an unknown option":  {SecurityOpt: []string{"magic"}},
		"log driver":         {LogConfig: types.LogConfig{Type: "syslog"}},
		"oom killer":         {Resources: types.Resources{OomKillDisable: &yes}},
		"rm and restart":     {AutoRemove: true, RestartPolicy: types.RestartPolicy{Name: "always"}},
		"little memory":      {Resources: types.Resources{Memory: 1024}},
		"links":              {Links: []string{"a:b"}},
		"parent group":       {Resources: types.Resources{CgroupParent: "/x"}},
		"unknown restarting": {RestartPolicy: types.RestartPolicy{Name: "sometimes"}},
	} {
		if _, err := refuse(&types.Config{}, &h); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if _, err := refuse(&types.Config{Hostname: "Not_A_Label"}, &types.HostConfig{}); err == nil {
		t.Error("an impossible host name was accepted")
	}
	limit := int64(10)
	usual := types.HostConfig{NetworkMode: "bridge", Privileged: true, UTSMode: "host", PidMode: "container:x", UsernsMode: "host",
		Annotations: map[string]string{"team": "shop", "example.com/team": "shop"},
		Resources: types.Resources{PidsLimit: &limit, Devices: []types.DeviceMapping{{PathOnHost: "/dev/null", PathInContainer: "/dev/mine", CgroupPermissions: "r"}},
			DeviceCgroupRules: []string{"c 10:* rwm"}, Ulimits: []*types.Ulimit{{Name: "nofile", Soft: 1, Hard: -1}}}, SecurityOpt: []string{"no-new-privileges"}, LogConfig: types.LogConfig{Type: "json-file"}}
	if w, err := refuse(&types.Config{}, &usual); err != nil || len(w) > 0 {
		t.Errorf("the usual is refused: %v %v", err, w)
	}
}

// Every field of a request is honoured or refused: one that the API gains must be judged.
func TestEveryFieldIsJudged(t *testing.T) {
	judged := map[string]bool{}
	for name := range strings.FieldsSeq(judgedFields) {
		judged[name] = true
	}
	var look func(t *testing.T, of reflect.Type)
	look = func(t *testing.T, of reflect.Type) {
		for i := range of.NumField() {
			f := of.Field(i)
			if f.Anonymous {
				look(t, f.Type)
			} else if !judged[f.Name] {
				t.Errorf("%s.%s is neither honoured nor refused", of.Name(), f.Name)
			}
		}
	}
	look(t, reflect.TypeFor[types.HostConfig]())
	look(t, reflect.TypeFor[types.Config]())
	look(t, reflect.TypeFor[types.UpdateConfig]())
}

// ArgsEscaped and ContainerIDFile are the client's own; AttachStdin and its like say what
// a client will do.
const judgedFields = `Hostname Domainname User AttachStdin AttachStdout AttachStderr ExposedPorts Tty OpenStdin StdinOnce Env Cmd Healthcheck
ArgsEscaped Image Volumes WorkingDir Entrypoint NetworkDisabled OnBuild Labels StopSignal StopTimeout Shell
Binds ContainerIDFile LogConfig NetworkMode PortBindings RestartPolicy AutoRemove VolumeDriver VolumesFrom ConsoleSize Annotations CapAdd CapDrop
CgroupnsMode DNS DNSOptions DNSSearch ExtraHosts GroupAdd IpcMode Cgroup Links OomScoreAdj PidMode Privileged PublishAllPorts ReadonlyRootfs SecurityOpt
StorageOpt Tmpfs UTSMode UsernsMode ShmSize Sysctls Runtime Umask Isolation Mounts MaskedPaths ReadonlyPaths Init
CPUShares Memory NanoCPUs CgroupParent BlkioWeight BlkioWeightDevice BlkioDeviceReadBps BlkioDeviceWriteBps BlkioDeviceReadIOps BlkioDeviceWriteIOps
CPUPeriod CPUQuota CPURealtimePeriod CPURealtimeRuntime CpusetCpus CpusetMems Devices DeviceCgroupRules DeviceRequests MemoryReservation MemorySwap
MemorySwappiness OomKillDisable PidsLimit Ulimits CPUCount CPUPercent IOMaximumIOps IOMaximumBandwidth`

func TestTmpfsOptions(t *testing.T) {
	for text, want := range map[string]string{
		"":                            "noexec nosuid nodev mode=1777",
		"size=64m,mode=700,uid=5":     "noexec nosuid nodev size=67108864 uid=5 mode=700",
		"exec,suid,dev,ro":            "ro mode=1777",
		"rw,noexec,nosuid,size=1024k": "noexec nosuid nodev size=1048576 mode=1777",
	} {
		var m mountRecord
		if err := tmpfsOptions(strings.Split(text, ","), &m); err != nil || strings.Join(m.tmpfs(), " ") != want {
			t.Errorf("%q: %v, %v", text, m.tmpfs(), err)
		}
	}
	for _, bad := range []string{"size=x", "mode=9", "huge=always", "uid=", "ro=1x,what"} {
		if err := tmpfsOptions(strings.Split(bad, ","), &mountRecord{}); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
}

// What --change says changes the configuration of an image, and nothing else does.
func TestChanges(t *testing.T) {
	var c dockerspec.DockerOCIImageConfig
	c.Env = []string{"A=1", "B=2"}
	err := applyChanges(&c, []string{"ENV A=3", `CMD ["x", "y"]`, "ENTRYPOINT run it", "EXPOSE 80 53/udp", "USER 5", "WORKDIR /w", "LABEL a=b", "VOLUME /v", "STOPSIGNAL INT", "HEALTHCHECK CMD true", "ONBUILD RUN x"})
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(c.Env, " "); got != "B=2 A=3" || strings.Join(c.Cmd, " ") != "x y" || strings.Join(c.Entrypoint, "|") != "/bin/sh|-c|run it" || len(c.ExposedPorts) != 2 ||
		c.User != "5" || c.WorkingDir != "/w" || c.Labels["a"] != "b" || len(c.Volumes) != 1 || c.StopSignal != "INT" || c.Healthcheck == nil || c.OnBuild[0] != "RUN x" {
		t.Errorf("got %+v", c)
	}
	for _, bad := range []string{"RUN rm -rf /", "COPY a b", "FROM scratch", "WHAT is this"} {
		if err := applyChanges(&c, []string{bad}); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
}

func TestBinds(t *testing.T) {
	for text, want := range map[string]mountRecord{
		"/a:/b":         {Type: "bind", Source: "/a", Destination: "/b"},
		"/a:/b:ro":      {Type: "bind", Source: "/a", Destination: "/b", ReadOnly: true},
		"data:/b":       {Type: "volume", Name: "data", Destination: "/b"},
		"/b":            {Type: "volume", Destination: "/b", Anonymous: true},
		"/a:/b:rshared": {Type: "bind", Source: "/a", Destination: "/b", Propagation: "rshared"},
	} {
		if got, err := parseBind(text); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %+v, %v", text, got, err)
		}
	}
	for _, bad := range []string{"a:b", "data:/", "/a:/b:what", "a:b:c:d", "data:/b:ro,nope"} {
		if _, err := parseBind(bad); err == nil {
			t.Errorf("%s: accepted", bad)
		}
	}
}

func TestStatesFollowThePod(t *testing.T) {
	begun := metav1.NewTime(time.Now().Add(-time.Minute))
	ended := &v1.ContainerStateTerminated{ExitCode: 3, StartedAt: begun, FinishedAt: metav1.Now()}
	pod := func(phase v1.PodPhase, policy v1.RestartPolicy, cs v1.ContainerStatus) *v1.Pod {
		return &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Spec: v1.PodSpec{RestartPolicy: policy},
			Status: v1.PodStatus{Phase: phase, ContainerStatuses: []v1.ContainerStatus{cs}}}
	}
	waiting := v1.ContainerState{Waiting: &v1.ContainerStateWaiting{Reason: "CrashLoopBackOff"}}
	for _, c := range []struct {
		name string
		rec  record
		pod  *v1.Pod
		want types.ContainerState
		code int
	}{
		{"never started", record{}, nil, types.StateCreated, 0},
		{"its pod is gone", record{Last: lastRun{ExitCode: 4, FinishedAt: time.Now()}}, nil, types.StateExited, 4},
		{"starting", record{Pod: "p"}, &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p"}}, types.StateCreated, 0},
		{"running", record{Pod: "p"}, pod(v1.PodRunning, v1.RestartPolicyNever, v1.ContainerStatus{State: v1.ContainerState{Running: &v1.ContainerStateRunning{StartedAt: begun}}}), types.StateRunning, 0},
		{"ended", record{Pod: "p"}, pod(v1.PodFailed, v1.RestartPolicyNever, v1.ContainerStatus{State: v1.ContainerState{Terminated: ended}}), types.StateExited, 3},
		{"ended, the phase is late", record{Pod: "p"}, pod(v1.PodRunning, v1.RestartPolicyNever, v1.ContainerStatus{State: v1.ContainerState{Terminated: ended}}), types.StateExited, 3},
		{"comes back", record{Pod: "p"}, pod(v1.PodRunning, v1.RestartPolicyAlways, v1.ContainerStatus{State: v1.ContainerState{Terminated: ended}}), types.StateRestarting, 3},
		{"waits to come back", record{Pod: "p"}, pod(v1.PodRunning, v1.RestartPolicyAlways, v1.ContainerStatus{State: waiting, LastTerminationState: v1.ContainerState{Terminated: ended}}), types.StateRestarting, 3},
		{"stopped while it waits", record{Pod: "p", Stopped: true}, pod(v1.PodRunning, v1.RestartPolicyAlways, v1.ContainerStatus{State: waiting, LastTerminationState: v1.ContainerState{Terminated: ended}}), types.StateExited, 3},
		{"another's pod", record{Pod: "q", Last: lastRun{ExitCode: 1, FinishedAt: time.Now()}}, pod(v1.PodRunning, v1.RestartPolicyNever, v1.ContainerStatus{}), types.StateExited, 1},
	} {
		if st := stateOf(&c.rec, c.pod); st.status != c.want || st.run.ExitCode != c.code {
			t.Errorf("%s: %s %d, want %s %d", c.name, st.status, st.run.ExitCode, c.want, c.code)
		}
	}
}

func TestFiltersInBothForms(t *testing.T) {
	for _, text := range []string{`{"label":{"a=b":true,"c":true},"name":{"x":true}}`, `{"label":["a=b","c"],"name":["x"]}`} {
		r := httptest.NewRequest("GET", "/", nil)
		q := r.URL.Query()
		q.Set("filters", text)
		r.URL.RawQuery = q.Encode()
		f, err := filtersOf(r)
		if err != nil {
			t.Fatal(err)
		}
		if !f.labels("label", map[string]string{"a": "b", "c": "d"}) || f.labels("label", map[string]string{"a": "x", "c": "d"}) || f.labels("label", map[string]string{"a": "b"}) {
			t.Errorf("%s: labels", text)
		}
		if f.known("label") == nil || f.known("label", "name") != nil {
			t.Errorf("%s: known", text)
		}
	}
	e := filters{"type": {"container"}, "event": {"health_status"}, "label": {"a=b"}}
	m := events.Message{Type: "container", Action: "health_status: healthy", Actor: events.Actor{Attributes: map[string]string{"a": "b"}}}
	if !e.matchEvent(m) {
		t.Error("an event does not match its filters")
	}
	m.Type = "network"
	if e.matchEvent(m) {
		t.Error("another event matches")
	}
}

func TestProcessesAreSelectedByID(t *testing.T) {
	ps := "UID   PID  CMD\nroot   12  sh -c a b\nroot   13  other\n"
	titles, processes, err := selectProcesses([]byte(ps), map[int]bool{12: true})
	if err != nil || len(titles) != 3 || len(processes) != 1 || processes[0][2] != "sh -c a b" {
		t.Errorf("%v %v %v", titles, processes, err)
	}
	if _, _, err := selectProcesses([]byte("A B\n"), nil); err == nil {
		t.Error("a list without ids was accepted")
	}
}

func TestNamesMatchAsWithDocker(t *testing.T) {
	for _, c := range []struct {
		name, filter string
		want         bool
	}{{"web-1", "web", true}, {"web-1", "/web", true}, {"web-1", "^web-1$", true}, {"web-1", "^/web-1$", true}, {"web-10", "^web-1$", false}, {"my-web", "/web", false}} {
		if nameMatches(c.name, c.filter) != c.want {
			t.Errorf("%s against %s", c.name, c.filter)
		}
	}
}
