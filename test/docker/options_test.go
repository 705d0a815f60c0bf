package docker

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
)

// optionRun is a `docker run` whose options show in what its command says.
type optionRun struct {
	name    string
	options []string
	script  string // of sh in the container
	want    []string
	refused string // or what the refusal says; then script is not run
	warns   string
}

// runs use every option of `docker run` at least once. HOST, DIR and the like are replaced.
var runs = []optionRun{
	{name: "identity and limits", options: strings.Fields("--rm --name opt-limits --hostname box --domainname example.test --add-host friend:10.1.2.3 " +
		"--dns 10.9.9.9 --dns-search corp.test --dns-option ndots:3 -e A=1 --env-file DIR/env -w /tmp -u 65534:65534 --group-add 1234 " +
		"--label l=1 --label-file DIR/labels --annotation team=shop --ulimit nofile=100:200 --pids-limit 50 --oom-score-adj 500 " +
		"--shm-size 16m --tmpfs /scratch:size=1m,mode=1770,uid=65534,exec --read-only --cap-drop ALL --cap-add NET_BIND_SERVICE " +
		"--security-opt no-new-privileges --sysctl net.ipv4.ip_unprivileged_port_start=99 --memory 64m --memory-reservation 32m --memory-swap 64m " +
		"--cpus 0.5 --cpu-shares 512 --stop-signal INT --stop-timeout 3 --expose 1234 --device /dev/full:/dev/mine:r --log-driver json-file " +
		"--platform linux/ARCH --pull missing --quiet --init --runtime runc --cidfile DIR/cid --userns host --memory-swappiness -1 " +
		"--isolation default --volume-driver local --sig-proxy=false --detach-keys ctrl-x --attach stdout --attach stderr"),
		script: `hostname; cat /proc/sys/kernel/domainname /etc/hosts /etc/resolv.conf; pwd; id; echo env $A $B; echo files $(ulimit -n) $(ulimit -Hn)
echo pids $(cat /sys/fs/cgroup/pids.max /sys/fs/cgroup/pids/pids.max 2>/dev/null); echo oom $(cat /proc/self/oom_score_adj)
df -k /dev/shm /scratch; grep ' /scratch ' /proc/mounts; ls -ld /scratch; touch /x || echo kept out
grep -E 'CapBnd|NoNewPrivs' /proc/self/status; echo ports from $(cat /proc/sys/net/ipv4/ip_unprivileged_port_start); ls -l /dev/mine; echo first $(cat /proc/1/comm)
echo memory $(cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null)
echo quota $(cat /sys/fs/cgroup/cpu.max /sys/fs/cgroup/cpu/cpu.cfs_quota_us 2>/dev/null)`,
		want: []string{`(?m)^box$`, `(?m)^example\.test$`, `10\.1\.2\.3\s+friend`, `nameserver 10\.9\.9\.9`, `search .*corp\.test`, `ndots:3`, `(?m)^/tmp$`,
			`uid=65534.* gid=65534.*1234`, `(?m)^env 1 2$`, `(?m)^files 100 200$`, `(?m)^pids 50$`, `(?m)^oom 500$`, `(?m)^gantry-pod +16384 `, `(?m)\s1024\s.*/scratch$`,
			`/scratch tmpfs rw,nosuid,nodev,`, `(?m)^drwxrwx--T .* /scratch$`, `kept out`, `CapBnd:\s+0000000000000400`, `NoNewPrivs:\s+1`, `ports from 99`,
			`(?m)^crw.* 1, +7 .*/dev/mine$`, `(?m)^first (pause|main|gantry.*)$`, `(?m)^memory 67108864$`, `(?m)^quota 50000`}},
	{name: "no network", options: strings.Fields("--rm --network none"), script: `ip -o addr; ping -c1 -W5 127.0.0.1`,
		want: []string{`(?m)^1: lo .*127\.0\.0\.1`, `1 packets received`}},
	{name: "the host's namespaces", options: strings.Fields("--rm --network host --pid host --ipc host"), script: `hostname; ls /proc | grep -c '^[0-9]'; readlink /proc/self/ns/ipc`,
		want: []string{`(?m)^HOST$`, `OURS`}},
	{name: "the host's name", options: strings.Fields("--rm --uts host --interactive"), script: `hostname; cat /etc/hostname`, want: []string{`(?m)^HOST\nHOST$`}},
	{name: "privileges", options: strings.Fields("--rm --privileged --security-opt seccomp=unconfined"), script: `grep -E 'CapBnd|Seccomp:' /proc/self/status`, want: []string{`CapBnd:\s+0000.*f`, `Seccomp:\s+0`}},
	{name: "another's network, processes and memory", options: strings.Fields("--rm --network container:opt-other --pid container:opt-other --ipc container:opt-other"),
		script: `wget -qO- http://127.0.0.1:8080/; hostname; cat /dev/shm/note; ps`, want: []string{`from the other`, `(?m)^otherhost$`, `in memory`, `httpd`}},
	{name: "volumes", options: strings.Fields("--rm -v opt-volume:/one:ro --mount type=tmpfs,destination=/two,tmpfs-size=2m,tmpfs-mode=0700 --volumes-from opt-other"),
		script: `touch /one/x || echo read only; df -k /two; ls -ld /two; ls /kept`, want: []string{`read only`, `(?m)\s2048\s.*/two$`, `(?m)^drwx------ .* /two$`, `kept-file`}},
	{name: "entry point and terminal", options: strings.Fields("--rm -t --entrypoint /bin/echo --no-healthcheck --restart no"), script: `words`, want: []string{`-c words`}},
	{name: "a health check", options: strings.Fields("-d --health-cmd true --health-interval 1s --health-timeout 5s --health-retries 3 --health-start-period 1s --health-start-interval 1s --network opt-net --network-alias alias -p 127.0.0.1::80 -P --expose 81"),
		script: "sleep 600"},
	{name: "log options", options: strings.Fields("--rm --log-opt max-size=1m"), script: "true", warns: "--log-opt has no effect"},
	{name: "this API's socket", options: strings.Fields("--rm --use-api-socket"), script: `test -S /var/run/docker.sock && echo there`, want: []string{`there`}},
	{name: "more swap", options: strings.Fields("--rm --memory 64m --memory-swap 128m"), script: "true", warns: "do not swap"},
	{name: "a rule for devices", options: []string{"--rm", "--device-cgroup-rule", "c 1:11 rw", "--cap-add", "SYSLOG"}, script: `mknod /tmp/log c 1 11 && exec 3</tmp/log && echo opened`, want: []string{`opened`}},
	{name: "without the rule", options: []string{"--rm", "--cap-add", "SYSLOG"}, script: `mknod /tmp/log c 1 11; (exec 3</tmp/log) 2>/dev/null || echo denied`, want: []string{`denied`}},

	{refused: "--blkio-weight ", options: strings.Fields("--blkio-weight 100")},
	{refused: "--blkio-weight-device", options: strings.Fields("--blkio-weight-device /dev/sda:100")},
	{refused: "--cgroup-parent", options: strings.Fields("--cgroup-parent /x")},
	{refused: "--cgroupns host|cgroup v2", options: strings.Fields("--cgroupns CGROUPNS")},
	{refused: "--cpu-count", options: strings.Fields("--cpu-count 1")},
	{refused: "--cpu-percent", options: strings.Fields("--cpu-percent 1")},
	{refused: "--cpu-period", options: strings.Fields("--cpu-period 100000")},
	{refused: "limit is negative", options: strings.Fields("--cpu-quota -5")},
	{refused: "--cpu-rt-period", options: strings.Fields("--cpu-rt-period 1000")},
	{refused: "--cpu-rt-runtime", options: strings.Fields("--cpu-rt-runtime 1000")},
	{refused: "--cpuset-cpus", options: strings.Fields("--cpuset-cpus 0")},
	{refused: "--cpuset-mems", options: strings.Fields("--cpuset-mems 0")},
	{refused: "--device /dev/nothing", options: strings.Fields("--device /dev/nothing")},
	{refused: "--device-read-bps", options: strings.Fields("--device-read-bps /dev/null:1mb")},
	{refused: "--device-read-iops", options: strings.Fields("--device-read-iops /dev/null:10")},
	{refused: "--device-write-bps", options: strings.Fields("--device-write-bps /dev/null:1mb")},
	{refused: "--device-write-iops", options: strings.Fields("--device-write-iops /dev/null:10")},
	{refused: "--gpus is not possible.*--device", options: strings.Fields("--gpus all")},
	{refused: "--io-maxbandwidth", options: strings.Fields("--io-maxbandwidth 1m")},
	{refused: "--io-maxiops", options: strings.Fields("--io-maxiops 10")},
	{refused: "--ip", options: strings.Fields("--network opt-net --ip 10.1.1.1")},
	{refused: "--ip6", options: strings.Fields("--network opt-net --ip6 fd00::1")},
	{refused: "--link ", options: strings.Fields("--link opt-other:x")},
	{refused: "--link-local-ip", options: strings.Fields("--network opt-net --link-local-ip 169.254.1.1")},
	{refused: "--log-driver syslog", options: strings.Fields("--log-driver syslog")},
	{refused: "--mac-address", options: strings.Fields("--mac-address 92:d0:c6:0a:29:33")},
	{refused: "--memory-swappiness", options: strings.Fields("--memory 64m --memory-swappiness 10")},
	{refused: "--oom-kill-disable", options: strings.Fields("--memory 64m --oom-kill-disable")},
	{refused: "--security-opt seccomp=", options: strings.Fields("--security-opt seccomp=DIR/profile")},
	{refused: "--storage-opt", options: strings.Fields("--storage-opt size=1g")},
	{refused: "--userns", options: strings.Fields("--userns private")},
	{refused: "--publish with --network none", options: strings.Fields("--network none -p 80")},
	{refused: "--tmpfs /x: option \"huge\"", options: strings.Fields("--tmpfs /x:huge=always")},
	{refused: "hard limit", options: strings.Fields("--ulimit nofile=200:100")},
	{refused: "--annotation gantry.dev/extras", options: strings.Fields("--annotation gantry.dev/extras=x")},
}

// clientOnly are options that the command line keeps to itself.
var clientOnly = []string{"help", "disable-content-trust", "kernel-memory"}

// Every option of `docker run` works or is refused by its name, and is in the documentation.
func everyOption(t *testing.T, e env) {
	help, _, err := e.cli(t, "run", "--help")
	check(t, err)
	page, err := os.ReadFile("../../docs/operate/docker.md")
	check(t, err)
	used := map[string]bool{}
	for _, run := range runs {
		for _, word := range run.options {
			name, _, _ := strings.Cut(word, "=")
			used[name] = true
		}
	}
	known := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^\s+(?:(-\w), )?--([a-z0-9-]+)`).FindAllStringSubmatch(help, -1) {
		known["--"+m[2]], known[m[1]] = true, true
		if slices.Contains(clientOnly, m[2]) {
			continue
		}
		if !used["--"+m[2]] && (m[1] == "" || !used[m[1]]) {
			t.Errorf("no run uses --%s", m[2])
		}
		if !bytes.Contains(page, []byte("`--"+m[2]+"`")) {
			t.Errorf("docs/operate/docker.md does not say what becomes of `--%s`", m[2])
		}
	}
	prepareOptions(t, e)
	for _, run := range runs {
		name := run.name
		if name == "" {
			name = "refused: " + strings.Join(run.options, " ")
		}
		missing := slices.ContainsFunc(run.options, func(o string) bool {
			o, _, _ = strings.Cut(o, "=")
			return strings.HasPrefix(o, "--") && !known[o]
		})
		if missing {
			continue // this version of the command line has no such option any more, or not yet
		}
		t.Run(name, func(t *testing.T) { runOptions(t, e, run) })
	}
}

// prepareOptions makes what the runs refer to.
func prepareOptions(t *testing.T, e env) {
	for _, args := range [][]string{
		{"network", "create", "opt-net"}, {"volume", "create", "opt-volume"},
		{"run", "-d", "--name", "opt-other", "--hostname", "otherhost", "-v", "/kept", e.image, "sh", "-c",
			"echo in memory >/dev/shm/note; touch /kept/kept-file; echo from the other >/index.html; exec httpd -f -p 8080 -h /"},
	} {
		if _, said, err := e.cli(t, args...); err != nil {
			t.Fatalf("docker %s: %v: %s", strings.Join(args, " "), err, said)
		}
	}
	t.Cleanup(func() {
		for _, args := range [][]string{{"rm", "-fv", "opt-other"}, {"network", "rm", "opt-net"}, {"volume", "rm", "opt-volume"}} {
			if _, said, err := e.cli(t, args...); err != nil {
				t.Errorf("docker %s: %v: %s", strings.Join(args, " "), err, said)
			}
		}
	})
}

func runOptions(t *testing.T, e env, run optionRun) {
	dir := t.TempDir()
	for name, text := range map[string]string{"env": "B=2\n", "labels": "m=2\n", "profile": `{"defaultAction":"SCMP_ACT_ALLOW"}`} {
		check(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
	}
	host, err := os.Hostname()
	check(t, err)
	ours, err := os.Readlink("/proc/self/ns/ipc")
	check(t, err)
	cgroupns := "private"
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err == nil {
		cgroupns = "host"
	}
	words := strings.NewReplacer("DIR", dir, "HOST", host, "OURS", regexp.QuoteMeta(ours), "ARCH", runtime.GOARCH, "CGROUPNS", cgroupns)
	args := []string{"run"}
	for _, o := range run.options {
		args = append(args, words.Replace(o))
	}
	if run.refused != "" {
		args[0] = "create"
	}
	out, said, err := e.cli(t, append(args, e.image, "sh", "-c", run.script)...)
	if slices.Contains(run.options, "-d") && err == nil {
		defer e.cli(t, "rm", "-f", strings.TrimSpace(out))
	}
	if run.refused != "" {
		if err == nil || !regexp.MustCompile(run.refused).MatchString(said) {
			t.Errorf("not refused as %q: %v: %s%s", run.refused, err, out, said)
		}
		return
	}
	if err != nil {
		t.Fatalf("%v: %s%s", err, out, said)
	}
	if !strings.Contains(said, run.warns) {
		t.Errorf("warned with %q", said)
	}
	for _, want := range run.want {
		if !regexp.MustCompile(words.Replace(want)).MatchString(out) {
			t.Errorf("no %q in what it says:\n%s%s", want, out, said)
		}
	}
}

// cli runs the docker command line.
func (e env) cli(t *testing.T, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	cmd := exec.Command("docker", args...)
	cmd.Env = append(os.Environ(), "DOCKER_HOST=unix://"+filepath.Join(e.in.DataDir, "docker.sock"))
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	err = cmd.Run()
	return out.String(), said.String(), err
}
