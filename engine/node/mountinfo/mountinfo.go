// Package mountinfo reads the kernel's table of mounts, as far as running
// containers takes it. Only engine/node imports it.
package mountinfo

import (
	"bufio"
	"os"
	"slices"
	"strconv"
	"strings"
)

// Mount is one line of the table.
type Mount struct {
	Point   string
	Kind    string // type of the file system
	Options string // of the file system
}

// Table returns all mounts that this process sees, in the kernel's order.
func Table() ([]Mount, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var table []Mount
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
		table = append(table, Mount{Point: point, Kind: types[0], Options: types[2]})
	}
	return table, lines.Err()
}

// Below returns the mount points in a directory, latest first.
func Below(dir string) ([]string, error) {
	table, err := Table()
	if err != nil {
		return nil, err
	}
	var points []string
	for _, m := range table {
		if strings.HasPrefix(m.Point, dir+"/") {
			points = append(points, m.Point)
		}
	}
	slices.Reverse(points)
	return points, nil
}
