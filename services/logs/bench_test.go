package logs

import (
	"bufio"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/gantryhq/gantry/services/logs/logql"
	"github.com/gantryhq/gantry/services/logs/search"
)

// shopLog writes what a shop's services write in a day into files as a node keeps them: requests with random
// ids as JSON, lines of key=value, plain text and stack traces. It returns how many bytes that were.
func shopLog(b *testing.B, dir string, megabytes int) (total int64) {
	b.Helper()
	random := rand.New(rand.NewPCG(11, 12))
	services := []string{"storefront", "cart", "orders", "payment", "stock", "mail", "search", "users", "redis", "postgres"}
	paths := []string{"/", "/cart", "/orders", "/products/", "/api/v1/stock", "/login", "/assets/app.js"}
	at := time.Now().Add(-24 * time.Hour)
	var files []*bufio.Writer
	for i, s := range services {
		path := filepath.Join(dir, fmt.Sprintf("shop_%s-%d_uid-%d", s, i, i), s, "0.log")
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			b.Fatal(err)
		}
		f, err := os.Create(path)
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { f.Close() })
		files = append(files, bufio.NewWriterSize(f, 1<<16))
	}
	step := 24 * time.Hour / time.Duration(megabytes*5000)
	for total < int64(megabytes)<<20 {
		at = at.Add(step)
		i := random.IntN(len(files))
		n := 0
		entry := func(stream, format string, args ...any) {
			more, err := fmt.Fprintf(files[i], "%s %s F %s\n", at.Format(spoolTime), stream, fmt.Sprintf(format, args...))
			if err != nil {
				b.Fatal(err)
			}
			n += more
		}
		status := 200
		if random.IntN(50) == 0 {
			status = 500
		}
		switch random.IntN(10) {
		case 0, 1, 2, 3, 4:
			entry("stdout", `{"time":"%s","level":"info","msg":"request","method":"GET","path":"%s%d","status":%d,"duration_ms":%.3f,"trace_id":"%016x%016x","client":"10.244.%d.%d"}`,
				at.Format(time.RFC3339Nano), paths[random.IntN(len(paths))], random.IntN(5000), status, random.ExpFloat64()*20, random.Uint64(), random.Uint64(), random.IntN(4), random.IntN(255))
		case 5, 6, 7:
			entry("stderr", `level=info ts=%s caller=handler.go:%d msg="order placed" order=ord-%08d customer=%d total=%.2f`, at.Format(time.RFC3339), random.IntN(300), random.IntN(1e8), random.IntN(1e5), random.Float64()*500)
		case 8:
			entry("stdout", `%s [pool-%d-thread-%d] DEBUG c.e.shop.Cache - hit ratio %.4f after %d requests`, at.Format(time.DateTime), random.IntN(4), random.IntN(32), random.Float64(), random.IntN(1e6))
		default:
			entry("stderr", `%s ERROR connection to redis:6379 refused, retry %d`, at.Format(time.DateTime), random.IntN(10))
			for line := range 4 {
				entry("stderr", "\tat com.example.shop.Client.call%d(Client.java:%d)", line, random.IntN(900))
			}
		}
		total += int64(n)
	}
	for _, f := range files {
		if err := f.Flush(); err != nil {
			b.Fatal(err)
		}
	}
	return total
}

func cpu() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u) // cannot fail
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

const benchMegabytes = 128

// BenchmarkArchive reads a day's logs of a shop into an archive: processor time and disk for each MB that containers have written.
func BenchmarkArchive(b *testing.B) {
	dir := b.TempDir()
	written := shopLog(b, dir, benchMegabytes)
	for b.Loop() {
		p := newPlace(b)
		before := cpu()
		archiveAll(b, p, dir)
		mb := float64(written) / (1 << 20)
		b.ReportMetric((cpu()-before).Seconds()*1e3/mb, "cpu-ms/MB")
		b.ReportMetric(float64(p.archive.Size())/mb/1024, "disk-KiB/MB")
	}
}

// archiveAll reads all of a directory, whatever it is that containers may write.
func archiveAll(b *testing.B, p *place, dir string) {
	p.collect.dir = dir
	p.collect.discover(time.Now())
	for _, s := range p.collect.all() {
		s.refill(time.Now())
		s.allowance = 1 << 40
		s.refilled = time.Now().Add(time.Hour)
		p.collect.advance(s, s.refilled, false)
		if s.archived == 0 {
			b.Fatal("nothing was archived")
		}
	}
}

// BenchmarkSearch asks a day's logs of a shop, and grep the same of the files as they were written.
func BenchmarkSearch(b *testing.B) {
	p := newPlace(b)
	dir := b.TempDir()
	shopLog(b, dir, benchMegabytes)
	archiveAll(b, p, dir)
	for _, q := range []struct{ name, query, pattern string }{
		{"nowhere", `{namespace="shop"} |= "4bf92f3577b34da6a3ce929d0e0e4736"`, "4bf92f3577b34da6a3ce929d0e0e4736"},
		{"rare", `{namespace="shop"} |= "order=ord-0001234"`, "order=ord-0001234"},
		{"frequent", `{namespace="shop"} |= "ERROR"`, "ERROR"},
		{"expression", `{namespace="shop"} |~ "customer=1234[0-9] total=4[0-9]{2}"`, "customer=1234[0-9] total=4[0-9]{2}"},
		{"short", `{namespace="shop"} |= "ord-77"`, "ord-77"},
	} {
		parsed, err := logql.Parse(q.query)
		if err != nil {
			b.Fatal(err)
		}
		b.Run(q.name+"/gantry", func(b *testing.B) {
			before := cpu()
			for b.Loop() {
				_, err := search.Lines(b.Context(), p, parsed.Log, search.Options{From: 0, To: time.Now().UnixNano(), Limit: 1000, May: func(string) bool { return true }})
				if err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric((cpu()-before).Seconds()*1e3/float64(b.N), "cpu-ms/op")
		})
		b.Run(q.name+"/grep", func(b *testing.B) {
			var used time.Duration
			for b.Loop() {
				// All of what is found, as grep cannot know which is the newest.
				c := exec.CommandContext(b.Context(), "grep", "-rhE", q.pattern, dir)
				c.Stdout = struct{ io.Writer }{io.Discard} // a pipe: into /dev/null grep stops at the first line
				_ = c.Run()                                // 1 is that there is nothing
				used += c.ProcessState.UserTime() + c.ProcessState.SystemTime()
			}
			b.ReportMetric(used.Seconds()*1e3/float64(b.N), "cpu-ms/op")
		})
	}
	numbers, err := logql.Parse(`sum by (app, stream) (count_over_time({namespace="shop"}[10m]))`)
	if err != nil {
		b.Fatal(err)
	}
	b.Run("histogram/gantry", func(b *testing.B) {
		for b.Loop() {
			start := time.Now().Add(-24 * time.Hour).UnixNano()
			_, err := search.Numbers(b.Context(), p, numbers.Metric, search.Steps{Start: start, Step: int64(10 * time.Minute), Count: 145}, func(string) bool { return true })
			if err != nil {
				b.Fatal(err)
			}
		}
	})
}
