package launch

import (
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

func TestSettingsOfTheHostAreRefused(t *testing.T) {
	own := []specs.LinuxNamespace{{Type: specs.NetworkNamespace}, {Type: specs.IPCNamespace}, {Type: specs.UTSNamespace}}
	hosts := []specs.LinuxNamespace{{Type: specs.NetworkNamespace, Path: "/proc/self/ns/net"}}
	for _, test := range []struct {
		name       string
		namespaces []specs.LinuxNamespace
		want       string
	}{
		{"net.ipv4.ip_forward", own, ""},
		{"net/ipv4/conf/eth0.1/forwarding", own, ""},
		{"kernel.shmmax", own, ""},
		{"fs.mqueue.msg_max", own, ""},
		{"kernel.domainname", own, ""},
		{"kernel.panic", own, "whole machine"},
		{"kernel.hostname", own, "whole machine"},
		{"fs.file-max", own, "whole machine"},
		{"net/../kernel/panic", own, "no name"},
		{"net..ipv4", own, "no name"},
		{"", own, "no name"},
		{"net.ipv4.ip_forward", nil, "shares the network namespace"},
		{"net.ipv4.ip_forward", hosts, "shares the network namespace"},
		{"kernel.shmmax", nil, "shares the ipc namespace"},
		{"kernel.shmmax", hosts, "shares the ipc namespace"},
	} {
		spec := &specs.Spec{Linux: &specs.Linux{Sysctl: map[string]string{test.name: "1"}, Namespaces: test.namespaces}}
		err := guardSysctls(spec)
		if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
			t.Errorf("%s: error %v, want %q in it", test.name, err, test.want)
		}
	}
}
