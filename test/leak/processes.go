package leak

import (
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// processes finds those that were told of the directory, their children, and what
// the long-lived ones among them hold open.
func (i *inventory) processes() error {
	table := processTable()
	for pid, p := range table {
		if i.inside[pid] || !i.mentions(p.args) {
			continue
		}
		i.ours[pid] = true
		if len(p.args) > 1 && p.args[1] == "serve" {
			i.seen = filepath.Join("/proc", strconv.Itoa(pid), "root", i.dir)
		}
		i.add(owned("process", strconv.Itoa(pid)+" "+strings.Join(p.args, " ")))
		i.descriptors(pid, p)
	}
	for pid, p := range table {
		if p.parent == os.Getpid() || !i.ours[p.parent] || i.ours[pid] || p.state == "X" {
			continue
		}
		name := strconv.Itoa(pid) + " (" + p.name + "), child of " + strconv.Itoa(p.parent)
		switch {
		case p.state == "Z":
			i.add(Thing{Kind: "zombie", Name: name})
		case !i.inside[pid]:
			i.add(Thing{Kind: "process", Name: name + ", outside of all groups"})
		}
	}
	return nil
}

// mentions reports whether a command line names the directory or a path in it.
func (i *inventory) mentions(args []string) bool {
	return slices.ContainsFunc(args, func(arg string) bool {
		_, value, found := strings.Cut(arg, "=")
		return below(arg, i.dir) || found && below(value, i.dir)
	})
}

// descriptors are those of files that belong to pods, and of deleted ones.
func (i *inventory) descriptors(pid int, p process) {
	fds, _ := filepath.Glob("/proc/" + strconv.Itoa(pid) + "/fd/*")
	for _, fd := range fds {
		target, err := os.Readlink(fd)
		path, deleted := strings.CutSuffix(target, " (deleted)")
		if err != nil || !below(path, i.dir) {
			continue
		}
		t := owned("descriptor", filepath.Base(fd)+" of "+strconv.Itoa(pid)+" ("+p.name+"): "+target)
		t.Kept = !deleted && below(path, filepath.Join(i.dir, "logs/pods")) // logs are followed until the pod is deleted
		if deleted && t.Owner == "" {
			t.Kind, t.Owner = "descriptor of a deleted file", "nobody"
		}
		if t.Owner != "" {
			i.add(t)
		}
	}
}

type process struct {
	name, state string
	parent      int
	args        []string
}

func processTable() map[int]process {
	table := map[int]process{}
	for _, name := range names("/proc") {
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		stat := readText("/proc/" + name + "/stat")
		head, rest, ok := cutLast(stat, ")")
		fields := strings.Fields(rest)
		if !ok || len(fields) < 2 {
			continue
		}
		_, comm, _ := strings.Cut(head, "(")
		parent, _ := strconv.Atoi(fields[1])
		cmdline, _ := os.ReadFile("/proc/" + name + "/cmdline")
		args := strings.Split(strings.TrimRight(string(cmdline), "\x00"), "\x00")
		table[pid] = process{name: comm, state: fields[0], parent: parent, args: args}
	}
	return table
}

func cutLast(s, sep string) (before, after string, found bool) {
	if n := strings.LastIndex(s, sep); n >= 0 {
		return s[:n], s[n+len(sep):], true
	}
	return s, "", false
}

// groups finds the control groups in every hierarchy, and who is in them.
func (i *inventory) groups() error {
	i.inside = map[int]bool{}
	for _, hierarchy := range hierarchies() {
		root := filepath.Join(hierarchy, i.name)
		err := filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
			if err != nil || !e.IsDir() {
				return nil // removed since
			}
			i.add(owned("cgroup", path))
			for pid := range strings.FieldsSeq(readText(filepath.Join(path, "cgroup.procs"))) {
				if n, err := strconv.Atoi(pid); err == nil && n > 0 && !i.inside[n] {
					i.inside[n] = true
					i.add(owned("process", pid+" in cgroup "+path))
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func hierarchies() []string {
	var points []string
	for _, m := range mountTable("/proc/self/mountinfo") {
		if m.kind == "cgroup" || m.kind == "cgroup2" {
			points = append(points, m.point)
		}
	}
	return points
}

// mounts finds the mounts below the directory in the host's mount namespace and in
// those of the instance's processes: one that kept its old root would hold them long
// after they went from the host's.
func (i *inventory) mounts() error {
	seen := map[string]bool{}
	for _, name := range names("/proc") {
		if pid, err := strconv.Atoi(name); err != nil || !i.ours[pid] && !i.inside[pid] {
			continue
		}
		namespace, err := os.Readlink("/proc/" + name + "/ns/mnt")
		if err != nil || seen[namespace] {
			continue
		}
		seen[namespace] = true
		for _, m := range mountTable("/proc/" + name + "/mountinfo") {
			if strings.Contains(m.point+"/", i.dir+"/") && m.point != i.dir {
				i.add(owned("mount", m.point+" ("+m.kind+") seen by process "+name))
			}
		}
	}
	return nil
}

type mount struct{ point, kind string }

// mountTable reads proc(5) mountinfo.
func mountTable(path string) []mount {
	var table []mount
	for line := range strings.Lines(readText(path)) {
		left, right, ok := strings.Cut(line, " - ")
		before, after := strings.Fields(left), strings.Fields(right)
		if ok && len(before) > 4 && len(after) > 0 {
			table = append(table, mount{point: before[4], kind: after[0]})
		}
	}
	return table
}
