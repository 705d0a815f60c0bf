package node

import (
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
)

// podHostname is the pod's name, or what the specification says, as a hostname.
func podHostname(pod *v1.Pod, host string) string {
	if pod.Spec.HostNetwork {
		return host
	}
	name := pod.Name
	if pod.Spec.Hostname != "" {
		name = pod.Spec.Hostname
	}
	if o := pod.Spec.HostnameOverride; o != nil {
		return *o
	}
	if isTrue(pod.Spec.SetHostnameAsFQDN) && pod.Spec.Subdomain != "" {
		return name
	}
	if len(name) > 63 {
		name = strings.TrimRight(name[:63], "-.")
	}
	return name
}

// podDomain is the domain of a pod with a subdomain, or "".
func podDomain(pod *v1.Pod, clusterDomain string) string {
	if pod.Spec.Subdomain == "" || pod.Spec.HostnameOverride != nil {
		return ""
	}
	return fmt.Sprintf("%s.%s.svc.%s", pod.Spec.Subdomain, pod.Namespace, clusterDomain)
}

// writePodFiles writes the pod's hosts, hostname and resolv.conf.
func (n *Node) writePodFiles(pod *v1.Pod, s *sandbox) error {
	domain := podDomain(pod, n.cfg.ClusterDomain)
	if domain != "" && isTrue(pod.Spec.SetHostnameAsFQDN) && !strings.Contains(s.Hostname, ".") {
		s.Hostname += "." + domain
		if len(s.Hostname) > 64 {
			return fmt.Errorf("failed to construct FQDN from pod hostname and cluster domain: %q is longer than 64 characters: use a shorter hostname or unset setHostnameAsFQDN", s.Hostname)
		}
	}
	hosts, err := n.hostsFile(pod, s, domain)
	if err != nil {
		return err
	}
	resolv, err := n.resolvConf(pod)
	if err != nil {
		return err
	}
	dir := pins{dir: n.paths.sandbox(pod.UID)}.etcPath()
	for name, data := range map[string][]byte{"hosts": hosts, "resolv.conf": resolv, "hostname": []byte(s.Hostname + "\n")} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o644); err != nil {
			return fmt.Errorf("write pod files: %w", err)
		}
		if s.UserNS != nil {
			if err := os.Lchown(filepath.Join(dir, name), int(s.UserNS.HostID), int(s.UserNS.HostID)); err != nil {
				return fmt.Errorf("write pod files: %w", err)
			}
		}
	}
	return nil
}

// managedHosts begins a hosts file that is the pod's own. Programs recognise it by the kubelet's words.
const managedHosts = "# Kubernetes-managed hosts file.\n"

func (n *Node) hostsFile(pod *v1.Pod, s *sandbox, domain string) ([]byte, error) {
	var b bytes.Buffer
	if pod.Spec.HostNetwork {
		host, err := os.ReadFile("/etc/hosts")
		if err != nil {
			return nil, fmt.Errorf("read the host's hosts file: %w", err)
		}
		b.WriteString("# The host's hosts file, kept up to date only when the pod starts.\n")
		b.Write(host)
	} else {
		b.WriteString(managedHosts + "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n" +
			"fe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n")
		name, _, _ := strings.Cut(s.Hostname, ".")
		for _, ip := range s.IPs {
			if domain != "" {
				fmt.Fprintf(&b, "%s\t%s.%s\t%s\n", ip, name, domain, name)
			} else {
				fmt.Fprintf(&b, "%s\t%s\n", ip, s.Hostname)
			}
		}
	}
	if len(pod.Spec.HostAliases) > 0 {
		b.WriteString("\n# Entries added by HostAliases.\n")
	}
	for _, a := range pod.Spec.HostAliases {
		fmt.Fprintf(&b, "%s\t%s\n", a.IP, strings.Join(a.Hostnames, "\t"))
	}
	return b.Bytes(), nil
}

// dns is the content of a resolv.conf.
type dns struct{ servers, searches, options []string }

const (
	maxNameservers = 3
	maxSearches    = 32
)

// resolvConf follows dnsPolicy and dnsConfig.
func (n *Node) resolvConf(pod *v1.Pod) ([]byte, error) {
	policy := pod.Spec.DNSPolicy
	if policy == v1.DNSClusterFirst && pod.Spec.HostNetwork {
		policy = v1.DNSDefault
	}
	var d dns
	cluster := n.cfg.Network.DNS()
	if policy != v1.DNSNone {
		data, err := os.ReadFile(hostResolvConf())
		if err != nil && !os.IsNotExist(err) {
			return nil, fmt.Errorf("read the host's resolver configuration: %w", err)
		}
		d = parseResolvConf(data)
	}
	if policy != v1.DNSDefault && policy != v1.DNSNone && cluster.IsValid() {
		domain := n.cfg.ClusterDomain
		d.servers = []string{cluster.String()}
		d.searches = append([]string{pod.Namespace + ".svc." + domain, "svc." + domain, domain}, d.searches...)
		d.options = []string{"ndots:5"}
	}
	d.merge(pod.Spec.DNSConfig)
	return d.bytes(), nil
}

// hostResolvConf is the file with the host's real upstream servers:
// systemd-resolved's stub on loopback cannot be reached from pods.
func hostResolvConf() string {
	const resolved = "/run/systemd/resolve/resolv.conf"
	if target, err := os.Readlink("/etc/resolv.conf"); err == nil && strings.Contains(target, "stub-resolv.conf") {
		return resolved
	}
	return "/etc/resolv.conf"
}

func parseResolvConf(data []byte) dns {
	var d dns
	for line := range strings.Lines(string(data)) {
		f := strings.Fields(line)
		if len(f) < 2 || strings.HasPrefix(f[0], "#") || strings.HasPrefix(f[0], ";") {
			continue
		}
		switch f[0] {
		case "nameserver":
			if a, err := netip.ParseAddr(f[1]); err == nil {
				d.servers = append(d.servers, a.String())
			}
		case "search", "domain":
			d.searches = nil
			for _, s := range f[1:] {
				if s != "." {
					d.searches = append(d.searches, strings.TrimSuffix(s, "."))
				}
			}
		case "options":
			d.options = append(d.options, f[1:]...)
		}
	}
	return d
}

func (d *dns) merge(c *v1.PodDNSConfig) {
	if c != nil {
		d.servers = append(d.servers, c.Nameservers...)
		d.searches = append(d.searches, c.Searches...)
		for _, o := range c.Options {
			d.options = slices.DeleteFunc(d.options, func(have string) bool {
				name, _, _ := strings.Cut(have, ":")
				return name == o.Name
			})
			if o.Value != nil && *o.Value != "" {
				d.options = append(d.options, o.Name+":"+*o.Value)
			} else {
				d.options = append(d.options, o.Name)
			}
		}
	}
	d.servers, d.searches = unique(d.servers), unique(d.searches)
	d.servers = d.servers[:min(len(d.servers), maxNameservers)]
	d.searches = d.searches[:min(len(d.searches), maxSearches)]
}

func unique(list []string) []string {
	var out []string
	for _, s := range list {
		if !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out
}

func (d *dns) bytes() []byte {
	var b bytes.Buffer
	if len(d.searches) > 0 {
		fmt.Fprintf(&b, "search %s\n", strings.Join(d.searches, " "))
	}
	for _, s := range d.servers {
		fmt.Fprintf(&b, "nameserver %s\n", s)
	}
	if len(d.options) > 0 {
		fmt.Fprintf(&b, "options %s\n", strings.Join(d.options, " "))
	}
	return b.Bytes()
}
