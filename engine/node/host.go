package node

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	goruntime "runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// host is what the node says about the machine. It does not change while the
// machine runs.
type host struct {
	Hostname      string
	BootID        string
	MachineID     string
	SystemUUID    string
	KernelVersion string
	OSImage       string
	CPUs          int
	MemoryBytes   int64
	SwapBytes     int64
	Hugepages     map[int64]int64 // page size to total, bytes
}

func readHost() (host, error) {
	h := host{CPUs: goruntime.NumCPU(), OSImage: osImage()}
	var err error
	if h.Hostname, err = os.Hostname(); err != nil {
		return h, fmt.Errorf("read hostname: %w", err)
	}
	if h.BootID, err = readLine("/proc/sys/kernel/random/boot_id"); err != nil {
		return h, fmt.Errorf("read boot id: %w", err)
	}
	h.MachineID, _ = readLine("/etc/machine-id")
	h.SystemUUID, _ = readLine("/sys/class/dmi/id/product_uuid")
	if h.SystemUUID == "" {
		h.SystemUUID = h.MachineID
	}
	var u unix.Utsname
	if err := unix.Uname(&u); err == nil {
		h.KernelVersion = unix.ByteSliceToString(u.Release[:])
	}
	mem, err := memInfo()
	if err != nil {
		return h, err
	}
	h.MemoryBytes, h.SwapBytes = mem["MemTotal"], mem["SwapTotal"]
	h.Hugepages = hugepages()
	return h, nil
}

// memInfo reads /proc/meminfo in bytes.
func memInfo() (map[string]int64, error) {
	data, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return nil, fmt.Errorf("read memory size: %w", err)
	}
	out := map[string]int64{}
	s := bufio.NewScanner(bytes.NewReader(data))
	for s.Scan() {
		name, rest, _ := strings.Cut(s.Text(), ":")
		f := strings.Fields(rest)
		if len(f) == 0 {
			continue
		}
		n, err := strconv.ParseInt(f[0], 10, 64)
		if err != nil {
			continue
		}
		if len(f) > 1 && f[1] == "kB" {
			n *= 1024
		}
		out[name] = n
	}
	return out, nil
}

func hugepages() map[int64]int64 {
	const dir = "/sys/kernel/mm/hugepages"
	out := map[int64]int64{}
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		kb, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimPrefix(e.Name(), "hugepages-"), "kB"), 10, 64)
		if err != nil {
			continue
		}
		line, _ := readLine(dir + "/" + e.Name() + "/nr_hugepages")
		n, _ := strconv.ParseInt(line, 10, 64)
		out[kb*1024] = n * kb * 1024
	}
	return out
}

func osImage() string {
	data, err := os.ReadFile("/etc/os-release")
	if err != nil {
		return "Linux"
	}
	for line := range strings.Lines(string(data)) {
		if name, ok := strings.CutPrefix(strings.TrimSpace(line), "PRETTY_NAME="); ok {
			return strings.Trim(name, `"'`)
		}
	}
	return "Linux"
}

func readLine(path string) (string, error) {
	data, err := os.ReadFile(path)
	return strings.TrimSpace(string(data)), err
}

// disk is the state of the file system of the data directory.
type disk struct{ Total, Free, Inodes, InodesFree uint64 }

func diskOf(dir string) (disk, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return disk{}, fmt.Errorf("read disk state of %s: %w", dir, err)
	}
	size := uint64(st.Bsize)
	return disk{Total: st.Blocks * size, Free: st.Bavail * size, Inodes: st.Files, InodesFree: st.Ffree}, nil
}
