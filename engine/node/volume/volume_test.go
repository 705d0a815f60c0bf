package volume

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	authenticationv1 "k8s.io/api/authentication/v1"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/gantryhq/gantry/internal/testenv"
)

// issuer hands out a token that is valid for an hour.
type issuer struct{ token string }

func (i *issuer) GetServiceAccountToken(_, _ string, tr *authenticationv1.TokenRequest) (*authenticationv1.TokenRequest, error) {
	out := tr.DeepCopy()
	out.Status = authenticationv1.TokenRequestStatus{Token: i.token, ExpirationTimestamp: metav1.NewTime(time.Now().Add(time.Hour))}
	return out, nil
}
func (i *issuer) DeleteServiceAccountToken(types.UID) {}

type bench struct {
	*Manager
	client *fake.Clientset
	tokens *issuer
	dir    string
}

func newBench(t *testing.T, objects ...runtime.Object) *bench {
	t.Helper()
	b := &bench{client: fake.NewClientset(objects...), tokens: &issuer{token: "t1"}, dir: t.TempDir()}
	b.Manager = New(Config{
		Client: b.client, Tokens: b.tokens, PodsDir: b.dir + "/pods", MemoryDir: b.dir + "/memory",
		Allocatable: func() v1.ResourceList { return v1.ResourceList{v1.ResourceCPU: resource.MustParse("2")} },
	})
	return b
}

func podWith(volumes ...v1.Volume) *v1.Pod {
	return &v1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "default", UID: "u1", Labels: map[string]string{"app": "web"}},
		Spec:       v1.PodSpec{Volumes: volumes, ServiceAccountName: "default", Containers: []v1.Container{{Name: "a"}}},
	}
}

func content(t *testing.T, v Volume, file string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(v.Path, file))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func ref(name string) v1.LocalObjectReference { return v1.LocalObjectReference{Name: name} }

func TestProjectedContentFollowsTheAPI(t *testing.T) {
	cm := &v1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "cm", Namespace: "default"}, Data: map[string]string{"k": "1"}}
	sec := &v1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "sec", Namespace: "default"}, Data: map[string][]byte{"p": []byte("s")}}
	b := newBench(t, cm, sec)
	pod := podWith(
		v1.Volume{Name: "c", VolumeSource: v1.VolumeSource{ConfigMap: &v1.ConfigMapVolumeSource{LocalObjectReference: ref("cm")}}},
		v1.Volume{Name: "all", VolumeSource: v1.VolumeSource{Projected: &v1.ProjectedVolumeSource{Sources: []v1.VolumeProjection{
			{Secret: &v1.SecretProjection{LocalObjectReference: ref("sec")}},
			{ServiceAccountToken: &v1.ServiceAccountTokenProjection{Path: "token"}},
			{DownwardAPI: &v1.DownwardAPIProjection{Items: []v1.DownwardAPIVolumeFile{{Path: "labels", FieldRef: &v1.ObjectFieldSelector{APIVersion: "v1", FieldPath: "metadata.labels"}}}}},
		}}}},
	)
	got, err := b.SetUp(t.Context(), pod)
	if err != nil {
		t.Fatal(err)
	}
	if content(t, got["c"], "k") != "1" || content(t, got["all"], "p") != "s" || content(t, got["all"], "token") != "t1" || !strings.Contains(content(t, got["all"], "labels"), `app="web"`) {
		t.Error("the volumes do not hold what the API has")
	}
	if strings.HasPrefix(got["all"].Path, b.dir+"/pods") {
		t.Errorf("secrets are on disk: %s", got["all"].Path)
	}
	if in := time.Until(got["all"].RefreshAt); in < 45*time.Minute || in > 55*time.Minute {
		t.Errorf("the token of an hour is renewed after %v, want 80 %% of its life", in)
	}

	cm.Data["k"], b.tokens.token = "2", "t2"
	if _, err := b.client.CoreV1().ConfigMaps("default").Update(t.Context(), cm, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Refresh(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
	if content(t, got["c"], "k") != "2" || content(t, got["all"], "token") != "t2" {
		t.Error("a refresh did not bring the new content")
	}
	if err := b.TearDown(t.Context(), pod.UID, nil); err != nil {
		t.Fatal(err)
	}
	for _, v := range got {
		if _, err := os.Stat(v.Path); !os.IsNotExist(err) {
			t.Errorf("%s is left", v.Path)
		}
	}
}

func TestAbsentSourceIsAnErrorUnlessOptional(t *testing.T) {
	b := newBench(t)
	optional := true
	source := &v1.SecretVolumeSource{SecretName: "none"}
	pod := podWith(v1.Volume{Name: "s", VolumeSource: v1.VolumeSource{Secret: source}})
	if _, err := b.SetUp(t.Context(), pod); err == nil || !strings.Contains(err.Error(), `"none" not found`) {
		t.Errorf("error %v does not name the secret", err)
	}
	source.Optional = &optional
	if _, err := b.SetUp(t.Context(), pod); err != nil {
		t.Errorf("an optional absent secret is refused: %v", err)
	}
}

func TestClaimLeadsToItsDirectory(t *testing.T) {
	dir := t.TempDir()
	pvc := &v1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Name: "data", Namespace: "default", UID: "c1"}}
	pv := &v1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "pv1"}, Spec: v1.PersistentVolumeSpec{
		ClaimRef:               &v1.ObjectReference{UID: "c1"},
		PersistentVolumeSource: v1.PersistentVolumeSource{Local: &v1.LocalVolumeSource{Path: dir}},
		AccessModes:            []v1.PersistentVolumeAccessMode{v1.ReadWriteOnce},
	}}
	b := newBench(t, pvc, pv)
	pod := podWith(v1.Volume{Name: "d", VolumeSource: v1.VolumeSource{PersistentVolumeClaim: &v1.PersistentVolumeClaimVolumeSource{ClaimName: "data"}}})
	if _, err := b.SetUp(t.Context(), pod); err == nil || !strings.Contains(err.Error(), "not bound") {
		t.Errorf("an unbound claim gives %v", err)
	}
	pvc.Status.Phase, pvc.Spec.VolumeName = v1.ClaimBound, "pv1"
	if _, err := b.client.CoreV1().PersistentVolumeClaims("default").Update(context.Background(), pvc, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	got, err := b.SetUp(t.Context(), pod)
	if err != nil || got["d"].Path != dir || got["d"].ReadOnly {
		t.Fatalf("got %+v, %v", got, err)
	}
	if err := os.WriteFile(dir+"/kept", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := b.TearDown(t.Context(), pod.UID, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(dir + "/kept"); err != nil {
		t.Error("tearing the pod down deleted the claim's data")
	}
}

func TestHostPathTypes(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		path string
		kind v1.HostPathType
		ok   bool
	}{
		{dir, v1.HostPathDirectory, true}, {file, v1.HostPathDirectory, false}, {file, v1.HostPathFile, true},
		{dir + "/new", v1.HostPathFile, false}, {dir + "/new", v1.HostPathDirectoryOrCreate, true}, {dir + "/new2", v1.HostPathFileOrCreate, true},
		{"/dev/null", v1.HostPathCharDev, true}, {file, v1.HostPathSocket, false}, {dir + "/absent", v1.HostPathUnset, true},
	} {
		if err := checkHostPath(&v1.HostPathVolumeSource{Path: tt.path, Type: &tt.kind}); (err == nil) != tt.ok {
			t.Errorf("%s as %q: %v", tt.path, tt.kind, err)
		}
	}
}

func TestSubPathCannotLeaveTheVolume(t *testing.T) {
	testenv.NeedRoot(t)
	b := newBench(t)
	pod := podWith(v1.Volume{Name: "e", VolumeSource: v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{}}})
	got, err := b.SetUp(t.Context(), pod)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := b.TearDown(context.Background(), pod.UID, nil); err != nil {
			t.Error(err)
		}
	}()
	if err := os.Symlink("/etc", got["e"].Path+"/out"); err != nil {
		t.Fatal(err)
	}
	for _, sub := range []string{"out", "out/passwd", "../x", "/etc"} {
		if path, err := b.SubPath(pod, "a", 0, "e", got["e"], sub); err == nil {
			t.Errorf("subPath %q was let through as %s", sub, path)
		}
	}
	path, err := b.SubPath(pod, "a", 1, "e", got["e"], "in/side")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path+"/f", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(got["e"].Path + "/in/side/f"); err != nil {
		t.Errorf("the subPath is not in the volume: %v", err)
	}
}

func TestMemoryVolumeIsBounded(t *testing.T) {
	testenv.NeedRoot(t)
	b := newBench(t)
	limit := resource.MustParse("1Mi")
	pod := podWith(v1.Volume{Name: "m", VolumeSource: v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{Medium: v1.StorageMediumMemory, SizeLimit: &limit}}})
	for range 2 { // twice: it must not be mounted over itself
		if _, err := b.SetUp(t.Context(), pod); err != nil {
			t.Fatal(err)
		}
	}
	dir := b.dir + "/pods/u1/volumes/kubernetes.io~empty-dir/m"
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil || st.Type != unix.TMPFS_MAGIC || st.Blocks*uint64(st.Bsize) != 1<<20 {
		t.Errorf("not a tmpfs of 1 MiB: %+v, %v", st, err)
	}
	if err := b.TearDown(t.Context(), pod.UID, nil); err != nil {
		t.Fatal(err)
	}
	mounts, _ := os.ReadFile("/proc/self/mountinfo")
	if strings.Contains(string(mounts), dir) {
		t.Error("the tmpfs is still mounted")
	}
}

func TestGroupOwnership(t *testing.T) {
	testenv.NeedRoot(t)
	b := newBench(t)
	group := int64(4321)
	pod := podWith(v1.Volume{Name: "e", VolumeSource: v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{}}})
	pod.Spec.SecurityContext = &v1.PodSecurityContext{FSGroup: &group}
	got, err := b.SetUp(t.Context(), pod)
	if err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	if err := unix.Stat(got["e"].Path, &st); err != nil || st.Gid != 4321 || st.Mode&unix.S_ISGID == 0 {
		t.Errorf("group %d, mode %o, %v: want group 4321 with setgid", st.Gid, st.Mode, err)
	}
}

// A blank in a mount's name, or in the data directory's, is written as "\040" in the mount table.
func TestWhatIsMountedUnderANameWithABlankIsNotDeleted(t *testing.T) {
	testenv.NeedRoot(t)
	b := newBench(t)
	pod := podWith(v1.Volume{Name: "e", VolumeSource: v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{}}})
	got, err := b.SetUp(t.Context(), pod)
	if err != nil {
		t.Fatal(err)
	}
	host, at := b.dir+"/precious data", got["e"].Path+"/a b"
	for _, dir := range []string{host, at} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(host+"/kept", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(host, at, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(at, unix.MNT_DETACH) })
	if err := b.TearDown(t.Context(), pod.UID, nil); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(host + "/kept"); err != nil {
		t.Errorf("tearing the pod down deleted what was mounted in its volume: %v", err)
	}
}

// The use of a directory is its own, and known soon after it was asked for the first time.
func TestVolumesAreMeasured(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "file"), make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	var m Measured
	for begin := time.Now(); ; time.Sleep(time.Millisecond) {
		if u := m.Of(dir); !u.At.IsZero() {
			if u.Used < 1<<20 || u.Used > 2<<20 || u.InodesUsed != 2 || u.Capacity <= u.Available {
				t.Errorf("%+v", u)
			}
			break
		}
		if time.Since(begin) > 30*time.Second {
			t.Fatal("not measured within half a minute")
		}
	}
	m.Keep(nil)
	if len(m.of) != 0 {
		t.Error("not forgotten")
	}
}
