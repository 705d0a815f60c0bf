// Package crilog reads log files in the CRI format, in the directories where a kubelet keeps them:
// NAMESPACE_POD_UID/CONTAINER/RUN.log, with files that are full put aside under a name that goes on with
// the time (pkg/kubelet/kuberuntime/logs and cri-client/pkg/logs of Kubernetes describe both).
//
// A file is known by the time of its first entry, which stays with it when it gets another name.
// Entries are "TIME STREAM TAG TEXT"; those with the tag P are pieces of a line, which are put together
// again up to MaxLine bytes.
//
// Imported by services/logs.
package crilog

import (
	"bytes"
	"cmp"
	"errors"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// MaxLine is how many bytes of a line are kept.
const MaxLine = 64 << 10

// File is one file of a container's log.
type File struct {
	Path string
	Run  int
}

// fileName matches "3.log" and "3.log.20260102-150405.000000"; compressed files are not read.
var fileName = regexp.MustCompile(`^(\d{1,9})\.log(\.\d{8}-\d{6}(?:\.\d+)?)?$`)

// Files lists the files of a container's directory, the oldest first.
func Files(dir string) ([]File, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	type named struct {
		File
		suffix string
	}
	var files []named
	for _, e := range entries {
		if m := fileName.FindStringSubmatch(e.Name()); m != nil && e.Type().IsRegular() {
			run, _ := strconv.Atoi(m[1])
			files = append(files, named{File{filepath.Join(dir, e.Name()), run}, cmp.Or(m[2], "~")}) // what is written now comes last
		}
	}
	slices.SortFunc(files, func(x, y named) int { return cmp.Or(cmp.Compare(x.Run, y.Run), cmp.Compare(x.suffix, y.suffix)) })
	out := make([]File, len(files))
	for i := range files {
		out[i] = files[i].File
	}
	return out, nil
}

// Pod is what the name of a pod's log directory says.
type Pod struct{ Namespace, Name, UID string }

// ParsePod reads the name of a pod's log directory.
func ParsePod(dir string) (Pod, bool) {
	parts := strings.Split(dir, "_")
	if len(parts) != 3 || slices.Contains(parts, "") {
		return Pod{}, false
	}
	return Pod{parts[0], parts[1], parts[2]}, true
}

// timeWidth is how long the time of an entry may be.
const timeWidth = 64

// Head is the time of a file's first entry in nanoseconds since 1970; 0 when there is none yet.
func Head(f io.ReaderAt) (int64, error) {
	b := make([]byte, timeWidth)
	n, err := f.ReadAt(b, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return 0, err
	}
	e, ok := parse(b[:n])
	if !ok {
		return 0, nil
	}
	return e.time, nil
}

// Entry is one line.
type Entry struct {
	Time   int64 // of its first piece, in nanoseconds since 1970
	Stderr bool
	Line   []byte
}

// piece is one entry of a file.
type piece struct {
	time    int64
	stderr  bool
	partial bool
	text    []byte
}

var space = []byte{' '}

// parse reads one entry without its newline, or the begin of one.
func parse(b []byte) (p piece, ok bool) {
	at, rest, ok := bytes.Cut(b, space)
	if !ok {
		return p, false
	}
	if p.time, ok = ParseTime(at); !ok {
		return p, false
	}
	stream, rest, _ := bytes.Cut(rest, space)
	tag, text, _ := bytes.Cut(rest, space)
	p.stderr = string(stream) == "stderr"
	p.partial = len(tag) > 0 && tag[0] == 'P'
	p.text = text
	return p, true
}

// fixedTime is how the engine's shim and containerd write times in UTC.
const fixedTime = "2006-01-02T15:04:05.000000000Z"

// ParseTime reads a time as in RFC 3339, in nanoseconds since 1970; the common form without a detour.
func ParseTime(b []byte) (int64, bool) {
	if len(b) == len(fixedTime) && b[len(b)-1] == 'Z' && b[10] == 'T' && b[19] == '.' {
		year, month, day := digits(b[0:4]), digits(b[5:7]), digits(b[8:10])
		hour, minute, second, nano := digits(b[11:13]), digits(b[14:16]), digits(b[17:19]), digits(b[20:29])
		if year >= 1970 && month >= 1 && month <= 12 && min(day, hour, minute, second, nano) >= 0 {
			return (days(year, month, day)*86400+int64(hour*3600+minute*60+second))*1e9 + int64(nano), true
		}
	}
	t, err := time.Parse(time.RFC3339Nano, string(b))
	if err != nil {
		return 0, false
	}
	return t.UnixNano(), true
}

func digits(b []byte) (n int) {
	for _, c := range b {
		if c < '0' || c > '9' {
			return -1
		}
		n = n*10 + int(c-'0')
	}
	return n
}

// days counts those from 1970-01-01 to a date of the Gregorian calendar (Hinnant,
// "chrono-compatible low-level date algorithms", days_from_civil).
func days(y, m, d int) int64 {
	if m <= 2 {
		y--
	}
	era := y / 400
	yoe := y - era*400
	doy := (153*((m+9)%12)+2)/5 + d - 1
	doe := yoe*365 + yoe/4 - yoe/100 + doy
	return int64(era)*146097 + int64(doe) - 719468
}
