package runc

import (
	"bufio"
	"os"
	"slices"
	"strconv"
	"strings"
)

// hostMount is one line of the host's mount table.
type hostMount struct {
	point   string
	kind    string
	options string // of the file system
}

func mountTable() ([]hostMount, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var table []hostMount
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		mount, super, _ := strings.Cut(lines.Text(), " - ")
		fields, types := strings.Fields(mount), strings.Fields(super)
		if len(fields) < 5 || len(types) < 3 {
			continue
		}
		point, err := strconv.Unquote(`"` + strings.ReplaceAll(fields[4], `"`, `\"`) + `"`)
		if err != nil {
			point = fields[4]
		}
		table = append(table, hostMount{point: point, kind: types[0], options: types[2]})
	}
	return table, lines.Err()
}

// mountsBelow returns the mount points in a directory, latest first.
func mountsBelow(dir string) ([]string, error) {
	table, err := mountTable()
	if err != nil {
		return nil, err
	}
	var points []string
	for _, m := range table {
		if strings.HasPrefix(m.point, dir+"/") {
			points = append(points, m.point)
		}
	}
	slices.Reverse(points)
	return points, nil
}
