package node

import (
	"bufio"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/procfs"
	"github.com/prometheus/procfs/blockdevice"
	"golang.org/x/sys/unix"

	"github.com/gantryhq/gantry/engine/network"
)

// HostMetricsPath is where the agent tells figures of the machine.
const HostMetricsPath = "/metrics/node"

// serveHostMetrics tells figures of the machine under the names and labels of node_exporter. Devices
// that Gantry makes for pods are left out, as those of Docker are: they come and go by the hundred.
func (n *Node) serveHostMetrics(w http.ResponseWriter, _ *http.Request) {
	b := &exposition{}
	var problems []string
	for _, collect := range []struct {
		name string
		from func(*exposition) error
	}{
		{"cpu", hostCPU}, {"meminfo", hostMemory}, {"loadavg", hostLoad}, {"netdev", hostNetwork}, {"diskstats", hostDisks},
		{"filesystem", hostFilesystems}, {"uname", hostName}, {"pressure", hostPressure}, {"filefd", hostFiles}, {"timex", hostTime},
	} {
		success := 1.0
		if err := collect.from(b); err != nil {
			success = 0
		}
		problems = append(problems, fmt.Sprintf("node_scrape_collector_success{collector=%q} %v\n", collect.name, success))
	}
	b.head("node_scrape_collector_success", "gauge")
	b.WriteString(strings.Join(problems, ""))
	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	_, _ = w.Write(b.Bytes()) // the client is gone when this fails
}

func (b *exposition) one(name, kind string, value float64) {
	b.head(name, kind)
	b.sample(name, "", value, time.Time{})
}

func hostCPU(b *exposition) error {
	fs, err := procfs.NewDefaultFS()
	if err != nil {
		return err
	}
	stat, err := fs.Stat()
	if err != nil {
		return err
	}
	b.head("node_cpu_seconds_total", "counter")
	for i := range int64(len(stat.CPU)) {
		c, known := stat.CPU[i]
		if !known {
			continue
		}
		for _, m := range []struct {
			mode  string
			value float64
		}{
			{"idle", c.Idle}, {"iowait", c.Iowait}, {"irq", c.IRQ}, {"nice", c.Nice}, {"softirq", c.SoftIRQ}, {"steal", c.Steal}, {"system", c.System}, {"user", c.User},
		} {
			b.sample("node_cpu_seconds_total", fmt.Sprintf("cpu=%q,mode=%q", strconv.FormatInt(i, 10), m.mode), m.value, time.Time{})
		}
	}
	b.one("node_boot_time_seconds", "gauge", float64(stat.BootTime))
	b.one("node_context_switches_total", "counter", float64(stat.ContextSwitches))
	b.one("node_forks_total", "counter", float64(stat.ProcessCreated))
	b.one("node_intr_total", "counter", float64(stat.IRQTotal))
	b.one("node_procs_running", "gauge", float64(stat.ProcessesRunning))
	b.one("node_procs_blocked", "gauge", float64(stat.ProcessesBlocked))
	now := time.Now()
	b.one("node_time_seconds", "gauge", float64(now.UnixNano())/1e9)
	return nil
}

func hostMemory(b *exposition) error {
	f, err := os.Open("/proc/meminfo")
	if err != nil {
		return err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		name, value, _ := strings.Cut(lines.Text(), ":")
		fields := strings.Fields(value)
		if len(fields) == 0 {
			continue
		}
		number, err := strconv.ParseFloat(fields[0], 64)
		if err != nil {
			return err
		}
		name = "node_memory_" + strings.TrimSuffix(strings.ReplaceAll(name, "(", "_"), ")")
		if len(fields) == 2 { // kB
			name, number = name+"_bytes", number*1024
		}
		b.one(name, "gauge", number)
	}
	return lines.Err()
}

func hostLoad(b *exposition) error {
	fs, err := procfs.NewDefaultFS()
	if err != nil {
		return err
	}
	load, err := fs.LoadAvg()
	if err != nil {
		return err
	}
	b.one("node_load1", "gauge", load.Load1)
	b.one("node_load5", "gauge", load.Load5)
	b.one("node_load15", "gauge", load.Load15)
	return nil
}

// passing tells whether a network device belongs to a container.
func passing(device string) bool {
	return strings.HasPrefix(device, "veth") || strings.HasPrefix(device, network.VethPrefix)
}

func hostNetwork(b *exposition) error {
	fs, err := procfs.NewDefaultFS()
	if err != nil {
		return err
	}
	devices, err := fs.NetDev()
	if err != nil {
		return err
	}
	for _, f := range []struct {
		name string
		of   func(procfs.NetDevLine) uint64
	}{
		{"receive_bytes", func(l procfs.NetDevLine) uint64 { return l.RxBytes }},
		{"receive_packets", func(l procfs.NetDevLine) uint64 { return l.RxPackets }},
		{"receive_errs", func(l procfs.NetDevLine) uint64 { return l.RxErrors }},
		{"receive_drop", func(l procfs.NetDevLine) uint64 { return l.RxDropped }},
		{"transmit_bytes", func(l procfs.NetDevLine) uint64 { return l.TxBytes }},
		{"transmit_packets", func(l procfs.NetDevLine) uint64 { return l.TxPackets }},
		{"transmit_errs", func(l procfs.NetDevLine) uint64 { return l.TxErrors }},
		{"transmit_drop", func(l procfs.NetDevLine) uint64 { return l.TxDropped }},
	} {
		name := "node_network_" + f.name + "_total"
		b.head(name, "counter")
		for device, l := range devices {
			if !passing(device) {
				b.sample(name, fmt.Sprintf("device=%q", device), float64(f.of(l)), time.Time{})
			}
		}
	}
	return nil
}

func hostDisks(b *exposition) error {
	fs, err := blockdevice.NewDefaultFS()
	if err != nil {
		return err
	}
	disks, err := fs.ProcDiskstats()
	if err != nil {
		return err
	}
	const sector = 512
	for _, f := range []struct {
		name string
		of   func(blockdevice.IOStats) float64
	}{
		{"reads_completed_total", func(s blockdevice.IOStats) float64 { return float64(s.ReadIOs) }},
		{"read_bytes_total", func(s blockdevice.IOStats) float64 { return float64(s.ReadSectors) * sector }},
		{"read_time_seconds_total", func(s blockdevice.IOStats) float64 { return float64(s.ReadTicks) / 1e3 }},
		{"writes_completed_total", func(s blockdevice.IOStats) float64 { return float64(s.WriteIOs) }},
		{"written_bytes_total", func(s blockdevice.IOStats) float64 { return float64(s.WriteSectors) * sector }},
		{"write_time_seconds_total", func(s blockdevice.IOStats) float64 { return float64(s.WriteTicks) / 1e3 }},
		{"io_time_seconds_total", func(s blockdevice.IOStats) float64 { return float64(s.IOsTotalTicks) / 1e3 }},
		{"io_time_weighted_seconds_total", func(s blockdevice.IOStats) float64 { return float64(s.WeightedIOTicks) / 1e3 }},
	} {
		name := "node_disk_" + f.name
		b.head(name, "counter")
		for _, d := range disks {
			if strings.HasPrefix(d.DeviceName, "loop") || strings.HasPrefix(d.DeviceName, "ram") {
				continue
			}
			b.sample(name, fmt.Sprintf("device=%q", d.DeviceName), f.of(d.IOStats), time.Time{})
		}
	}
	return nil
}

// onDisk are the kinds of file systems that are told of: those that can fill.
var onDisk = []string{"ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "vfat", "ntfs", "nfs", "nfs4", "bcachefs"}

func hostFilesystems(b *exposition) error {
	text, err := os.ReadFile("/proc/1/mounts")
	if err != nil {
		return err
	}
	type mounted struct {
		labels string
		stat   unix.Statfs_t
		only   float64
	}
	var list []mounted
	seen := map[string]bool{} // devices are mounted in many places: for pods, by bind
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		if len(f) < 4 || !slices.Contains(onDisk, f[2]) || seen[f[0]] {
			continue
		}
		m := mounted{labels: fmt.Sprintf("device=%q,fstype=%q,mountpoint=%q", f[0], f[2], f[1])}
		if unix.Statfs(filepath.Clean(f[1]), &m.stat) != nil {
			continue // out of our sight
		}
		if slices.Contains(strings.Split(f[3], ","), "ro") {
			m.only = 1
		}
		seen[f[0]] = true
		list = append(list, m)
	}
	for _, f := range []struct {
		name string
		of   func(*mounted) float64
	}{
		{"size_bytes", func(m *mounted) float64 { return float64(m.stat.Blocks) * float64(m.stat.Bsize) }},
		{"free_bytes", func(m *mounted) float64 { return float64(m.stat.Bfree) * float64(m.stat.Bsize) }},
		{"avail_bytes", func(m *mounted) float64 { return float64(m.stat.Bavail) * float64(m.stat.Bsize) }},
		{"files", func(m *mounted) float64 { return float64(m.stat.Files) }},
		{"files_free", func(m *mounted) float64 { return float64(m.stat.Ffree) }},
		{"readonly", func(m *mounted) float64 { return m.only }},
	} {
		b.head("node_filesystem_"+f.name, "gauge")
		for i := range list {
			b.sample("node_filesystem_"+f.name, list[i].labels, f.of(&list[i]), time.Time{})
		}
	}
	return nil
}

func hostName(b *exposition) error {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return err
	}
	text := func(f [65]byte) string { return unix.ByteSliceToString(f[:]) }
	b.head("node_uname_info", "gauge")
	b.sample("node_uname_info", fmt.Sprintf("domainname=%q,machine=%q,nodename=%q,release=%q,sysname=%q,version=%q",
		text(u.Domainname), text(u.Machine), text(u.Nodename), text(u.Release), text(u.Sysname), text(u.Version)), 1, time.Time{})
	return nil
}

// hostPressure tells how long tasks waited for resources; kernels without that have no such figures.
func hostPressure(b *exposition) error {
	fs, err := procfs.NewDefaultFS()
	if err != nil {
		return err
	}
	for _, resource := range []string{"cpu", "io", "memory"} {
		s, err := fs.PSIStatsForResource(resource)
		if err != nil {
			continue
		}
		if s.Some != nil {
			b.one("node_pressure_"+resource+"_waiting_seconds_total", "counter", float64(s.Some.Total)/1e6)
		}
		if s.Full != nil && resource != "cpu" {
			b.one("node_pressure_"+resource+"_stalled_seconds_total", "counter", float64(s.Full.Total)/1e6)
		}
	}
	return nil
}

func hostFiles(b *exposition) error {
	line, err := readLine("/proc/sys/fs/file-nr")
	if err != nil {
		return err
	}
	fields := strings.Fields(line)
	if len(fields) != 3 {
		return fmt.Errorf("/proc/sys/fs/file-nr holds %q", line)
	}
	open, _ := strconv.ParseFloat(fields[0], 64)
	most, _ := strconv.ParseFloat(fields[2], 64)
	b.one("node_filefd_allocated", "gauge", open)
	b.one("node_filefd_maximum", "gauge", most)
	return nil
}
