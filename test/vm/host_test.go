package vm

import (
	_ "embed"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

//go:embed testdata/pods.yaml
var pods string

// noTmp is a profile of AppArmor that forbids writing below /tmp.
const noTmp = `profile no-tmp flags=(attach_disconnected) {
  file,
  deny /tmp/** w,
}`

// declare has Gantry run the pods of testdata.
func declare(m *machine) {
	m.t.Helper()
	m.until("kubectl get node vm -o jsonpath='{.status.conditions[?(@.type==\"Ready\")].status}'", "True")
	m.sh("gantry base make busybox")
	m.sh("cat > /etc/apparmor.d/no-tmp <<'X'\n" + noTmp + "\nX\napparmor_parser -r /etc/apparmor.d/no-tmp")
	m.sh("kubectl apply -f - <<'X'\n" + pods + "\nX")
	awaitReady(m)
}

// awaitReady waits for those pods that run on.
func awaitReady(m *machine) {
	m.t.Helper()
	m.until("kubectl get deployment web -o jsonpath='{.status.readyReplicas}'", "3")
	for _, pod := range []string{"limited", "busy", "shared", "diary"} {
		m.until("kubectl get pod "+pod+" -o jsonpath='{.status.containerStatuses[0].ready}'", "true")
	}
	m.until("busybox wget -q -O - http://10.96.7.7/index.html", "fine")
}

// phase and the other functions are commands that tell something of a pod.
func phase(pod string) string {
	return "kubectl get pod " + pod + " -o jsonpath='{.status.phase} {.status.reason}{.status.containerStatuses[0].state.terminated.reason}'"
}

func log(pod string) string { return "kubectl logs " + pod }

// TestHost: limits, figures, devices and profiles are what pods ask for.
func TestHost(t *testing.T) {
	m := boot(t)
	m.is("this host has control groups of version 2 alone", "stat -f -c %T /sys/fs/cgroup; grep -c cgroup /proc/mounts", "cgroup2fs\n1")
	m.is("it has AppArmor", "cat /sys/module/apparmor/parameters/enabled", "Y")
	declare(m)
	m.until(phase("hungry"), "Failed OOMKilled")
	for _, pod := range []string{"devices", "privileged", "confined", "confined-by-runc", "strict"} {
		m.until(phase(pod), "Succeeded Completed")
	}
	m.is("limits", log("limited"), "67108864\n20000 100000\n16384")
	m.is("devices", log("devices"), "head: /tmp/disk: Operation not permitted\n1")
	m.is("devices of a privileged pod", log("privileged"), "unconfined\n3")
	m.is("the default profile", log("confined"), "gantry-default (enforce)")
	m.is("the default profile with runc", log("confined-by-runc"), "gantry-default (enforce)")
	m.is("a profile of the host", log("strict"), "no-tmp (enforce)\ntouch: /tmp/file: Permission denied\nmade")
	m.is("a profile that is not loaded", phase("unknown-profile"), "Failed AppArmor")
	m.is("what a list says of it", "kubectl get pod unknown-profile --no-headers | awk '{print $3}'", "AppArmor")
	m.is("the reason for it", "kubectl get events --field-selector involvedObject.name=unknown-profile,type=Warning -o jsonpath='{.items[0].message}'",
		`Cannot enforce AppArmor: profile "nowhere" is not loaded: load it with apparmor_parser`)
	m.is("a shared process namespace", log("shared"), "pause")
	m.is("mounts of containers on the host", "grep -c ' /var/lib/gantry/run/pause' /proc/self/mountinfo || true", "0")
	cpuIsLimitedAndTold(m)
	m.sh("gantry down --all")
	m.is("control groups are left", "find /sys/fs/cgroup -maxdepth 1 -name 'gantry-*'", "")
	m.is("mounts are left", "grep -c /var/lib/gantry /proc/self/mountinfo || true", "0")
}

// cpuIsLimitedAndTold compares what a pod that never rests has used with its limit, and
// with what the metrics API says.
func cpuIsLimitedAndTold(m *machine) {
	m.t.Helper()
	used := func() float64 {
		text := m.sh("awk '/^usage_usec/ {print $2}' $(find /sys/fs/cgroup -path '*pod'$(kubectl get pod busy -o jsonpath='{.metadata.uid}')'*/cpu.stat' | awk '{print length, $0}' | sort -n | tail -n 1 | cut -d' ' -f2); cut -d' ' -f1 /proc/uptime")
		f := strings.Fields(text)
		usec, err := strconv.ParseFloat(f[0], 64)
		up, err2 := strconv.ParseFloat(f[1], 64)
		if err != nil || err2 != nil {
			m.t.Fatalf("CPU time of the busy pod: %q", text)
		}
		return usec - 1e6*0.2*up // what it may use, from an origin that does not matter
	}
	began, over := time.Now(), used()
	for time.Since(began) < 30*time.Second {
		<-time.After(time.Second)
	}
	over = used() - over
	if seconds := time.Since(began).Seconds(); over/1e6/seconds > 0.03 || over/1e6/seconds < -0.15 {
		m.t.Errorf("in %.0f s the busy pod used %.2f s more than its limit of 0.2 processors", seconds, over/1e6)
	}
	m.until("kubectl top pod busy --no-headers | awk '{print ($2+0 >= 100 && $2+0 <= 230)}'", "1")
}

// TestReboots: the machine comes back to what is declared by itself, after an orderly
// reboot, in which containers are stopped as pods are, and after its power has failed.
func TestReboots(t *testing.T) {
	m := boot(t)
	declare(m)
	took := m.reboot()
	t.Logf("down and up again in %v", took.Round(time.Second))
	m.is("the shutdown waited for nobody", "journalctl -b -1 --no-pager | grep -c 'Waiting for process' || true", "0")
	awaitReady(m)
	m.is("how the containers ended", "kubectl get pods -l app=web -o jsonpath='{.items[*].status.containerStatuses[0].lastState.terminated.exitCode}'", "3 3 3")
	m.is("the hook and the signal came", "kubectl logs -p $(kubectl get pod -l app=web -o name | head -n 1)", "hook\ntold to end")
	m.is("the volume's starts", log("diary"), "2")
	for cut := range 2 {
		name := fmt.Sprintf("acknowledged-%d", cut)
		m.sh("kubectl create configmap " + name + " --from-literal=key=value; kubectl scale deployment web --replicas=" + strconv.Itoa(3+cut))
		m.cutPower()
		m.powerOn()
		m.is("the file system is sound", "dmesg | grep -ci 'ext4-fs error' || true", "0")
		m.until("kubectl get configmap "+name+" -o jsonpath='{.data.key}'", "value")
		m.until("kubectl get deployment web -o jsonpath='{.status.readyReplicas} {.status.replicas}'", fmt.Sprintf("%d %d", 3+cut, 3+cut))
		m.until(log("diary"), strconv.Itoa(3+cut))
		m.until("busybox wget -q -O - http://10.96.7.7/index.html", "fine")
	}
	m.cutPower()
	fsck(m)
}

// fsck has the disk of a machine whose power was cut recover as at a boot, and looks for
// any fault after that.
func fsck(m *machine) {
	m.t.Helper()
	raw := filepath.Join(m.dir, "disk.raw")
	if out, err := exec.Command("qemu-img", "convert", "-O", "raw", m.disk(), raw).CombinedOutput(); err != nil {
		m.t.Fatalf("copy the disk: %v: %s", err, out)
	}
	out, err := exec.Command("e2fsck", "-p", raw).CombinedOutput()
	if exit := (*exec.ExitError)(nil); err != nil && (!errors.As(err, &exit) || exit.ExitCode() != 1) {
		m.t.Errorf("recover the file system: %v\n%s", err, out)
	}
	if out, err := exec.Command("e2fsck", "-f", "-n", raw).CombinedOutput(); err != nil {
		m.t.Errorf("the file system has faults: %v\n%s", err, out)
	}
}

// TestSuites runs the tests of isolation and of control groups on the machine.
func TestSuites(t *testing.T) {
	m := boot(t)
	m.sh("systemctl stop gantry; gantry down --all; mkdir -p /opt/work/a/b")
	for _, suite := range []string{"cgroup", "driver", "isolation"} {
		t.Run(suite, func(t *testing.T) {
			out, err := m.run("cd /opt/work/a/b && GANTRY_TEST_PROGRAMS=/opt/programs CI=true /opt/tests/" + suite + ".test -test.timeout 60m -test.v 2>&1")
			if err != nil {
				t.Errorf("%v\n%s", err, out)
			}
			t.Logf("%d tests pass", strings.Count(out, "--- PASS"))
		})
	}
}
