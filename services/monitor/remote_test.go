package monitor

import (
	"context"
	"fmt"
	"math"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	promconfig "github.com/prometheus/prometheus/config"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/storage/remote"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
)

// receiver is a database at the other end, with Prometheus's own handler behind a login.
type receiver struct {
	db      *tsdb.DB
	address string
	server  *http.Server
	refused atomic.Int64 // requests without the right login
}

func newReceiver(t *testing.T) *receiver {
	t.Helper()
	db, err := tsdb.Open(t.TempDir(), nil, nil, tsdb.DefaultOptions(), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	r := &receiver{db: db, address: "127.0.0.1:0"}
	r.start(t)
	t.Cleanup(r.stop)
	return r
}

func (r *receiver) start(t *testing.T) {
	t.Helper()
	l, err := net.Listen("tcp", r.address)
	if err != nil {
		t.Fatal(err)
	}
	r.address = l.Addr().String()
	write := remote.NewWriteHandler(testConfig("x").Log, prometheus.NewRegistry(), r.db,
		listOf(promconfig.DefaultRemoteWriteConfig.ProtobufMessage), false, false, false)
	r.server = &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if user, password, _ := q.BasicAuth(); user != "gantry" || password != "hunter2" {
			r.refused.Add(1)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		write.ServeHTTP(w, q)
	})}
	go func() { _ = r.server.Serve(l) }()
}

func listOf[T any](values ...T) []T { return values }

func (r *receiver) stop() { _ = r.server.Close() }

// values are those that have arrived of the series "sent".
func (r *receiver) values(t *testing.T) map[int64]bool {
	t.Helper()
	q, err := r.db.Querier(math.MinInt64, math.MaxInt64)
	if err != nil {
		t.Fatal(err)
	}
	defer q.Close()
	found := map[int64]bool{}
	set := q.Select(context.Background(), false, nil, labels.MustNewMatcher(labels.MatchEqual, "__name__", "sent"), labels.MustNewMatcher(labels.MatchEqual, "cluster", "here"))
	for set.Next() {
		for it := set.At().Iterator(nil); it.Next() != chunkenc.ValNone; {
			_, v := it.At()
			found[int64(v)] = true
		}
	}
	return found
}

// awaitAll waits for samples, while others go on to be stored: what is stored is what wakes the sender.
func (r *receiver) awaitAll(t *testing.T, o *onward, from, to int64) {
	t.Helper()
	r.await(t, o, "other", func(found map[int64]bool) bool {
		for i := from; i <= to; i++ {
			if !found[i] {
				return false
			}
		}
		return true
	})
}

// awaitStart waits until samples are sent, of which this is the first.
func (r *receiver) awaitStart(t *testing.T, o *onward) {
	t.Helper()
	before := len(r.values(t))
	r.await(t, o, "sent", func(found map[int64]bool) bool { return len(found) > before })
}

func (r *receiver) await(t *testing.T, o *onward, meanwhile string, enough func(map[int64]bool) bool) {
	t.Helper()
	for end, i := time.Now().Add(3*time.Minute), int64(len(r.values(t))); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		o.append(t, meanwhile, 1000+i)
		if found := r.values(t); enough(found) {
			return
		}
	}
	t.Fatalf("of the samples only these have arrived: %v", r.values(t))
}

// sender is the monitor's database whose samples are sent on.
func sender(t *testing.T, dir string) *onward {
	t.Helper()
	db, err := openStorage(testConfig(dir), nil)
	if err != nil {
		t.Fatal(err)
	}
	o := &onward{db: db, dir: dir, log: testConfig(dir).Log, metrics: prometheus.NewRegistry()}
	db.SetWriteNotified(o)
	return o
}

func (o *onward) end(t *testing.T) {
	t.Helper()
	if err := o.close(); err != nil {
		t.Error(err)
	}
	if err := o.db.Close(); err != nil {
		t.Error(err)
	}
}

func (o *onward) configure(t *testing.T, text string) {
	t.Helper()
	cfg, err := loadRemote([]byte(text))
	if err == nil {
		err = o.apply(cfg)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func (o *onward) add(t *testing.T, from, to int64) {
	t.Helper()
	for i := from; i <= to; i++ {
		o.append(t, "sent", i)
	}
}

// append stores a sample of now, which nothing that comes later shares its millisecond with.
func (o *onward) append(t *testing.T, name string, value int64) {
	t.Helper()
	at := time.Now().UnixMilli()
	a := o.AppenderV2(t.Context())
	if _, err := a.Append(0, labels.FromStrings("__name__", name), 0, at, float64(value), nil, nil, storage.AppendV2Options{}); err != nil {
		t.Fatal(err)
	}
	if err := a.Commit(); err != nil {
		t.Fatal(err)
	}
	for time.Now().UnixMilli() <= at {
		time.Sleep(time.Millisecond / 4)
	}
}

func remoteConfig(address string) string {
	return fmt.Sprintf(`
global: {external_labels: {cluster: here}}
remote_write:
- url: http://%s/api/v1/write
  basic_auth: {username: gantry, password: hunter2}
  queue_config: {batch_send_deadline: 100ms, max_backoff: 200ms}
  metadata_config: {send: false}
`, address)
}

// What is stored arrives at a receiver, also what was stored while it was away, and while a login was wrong; after
// a restart what is stored from then on.
func TestSamplesAreSentOn(t *testing.T) {
	to, dir := newReceiver(t), t.TempDir()
	o := sender(t, dir)
	o.add(t, 1, 5) // nobody is told of them
	o.configure(t, remoteConfig(to.address))
	to.awaitStart(t, o)
	o.add(t, 10, 20)
	to.awaitAll(t, o, 10, 20)

	to.stop()
	o.add(t, 21, 40)
	to.start(t)
	to.awaitAll(t, o, 10, 40)

	o.end(t)
	o = sender(t, dir)
	o.configure(t, remoteConfig(to.address))
	to.awaitStart(t, o)
	o.add(t, 41, 50)
	to.awaitAll(t, o, 10, 50)

	if err := o.apply(nil); err != nil {
		t.Fatal(err)
	}
	o.add(t, 51, 55)
	o.configure(t, remoteConfig(to.address))
	to.awaitStart(t, o)
	o.add(t, 60, 61)
	to.awaitAll(t, o, 60, 61)
	if found := to.values(t); found[1] || found[51] {
		t.Errorf("samples that nobody asked for have been sent: %v", found)
	}
	o.end(t)
}

// The end of the service waits for a receiver that does not answer no longer than flushDeadline.
func TestAReceiverThatHangsDoesNotHoldUpTheEnd(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0") // accepts, and never answers
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	o := sender(t, t.TempDir())
	o.configure(t, remoteConfig(l.Addr().String()))
	o.add(t, 1, 100)
	begin := time.Now()
	o.end(t)
	if took := time.Since(begin); took > time.Minute {
		t.Errorf("the end took %s", took)
	}
}

// What is not honoured is refused with its name, and no secret is ever shown.
func TestConfigurationsOfRemoteWriting(t *testing.T) {
	for text, want := range map[string]string{
		"remote_write: [{url: http://x, basic_auth: {username: a, password_file: /etc/shadow}}]": "password_file names a file of the machine",
		"remote_write: [{url: http://x, tls_config: {ca_file: /etc/shadow}}]":                    "ca_file",
		"remote_write: [{url: http://x, tls_config: {ca: nonsense}}]":                            "CA cert",
		"remote_write: [{url: http://x}, {url: http://x}]":                                       "twice",
		"remote_write: [{url: http://x, name: a}, {url: http://y, name: a}]":                     "multiple remote write configs",
		"remote_write: [{}]":                                              "url for remote_write is empty",
		"remote_write: [{url: http://x, nonsense: 1}]":                    "nonsense",
		"remote_write: [{url: http://x, queue_config: {max_shards: -1}}]": "max_shards",
		"remote_write: [{url: http://x}]\nscrape_configs: []":             "scrape_configs is not honoured",
		"global: {scrape_interval: 1s}\nremote_write: [{url: http://x}]":  "global.scrape_interval",
		"global: {}": "remote_write is missing",
		"":           "remote_write is missing",
		"[":          "yaml",
	} {
		if _, err := loadRemote([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s\nwant a refusal that says %q, got %v", text, want, err)
		}
	}
	cfg, err := loadRemote([]byte(remoteConfig("x")))
	if err != nil {
		t.Fatal(err)
	}
	if got := cfg.RemoteWriteConfigs[0].QueueConfig.MaxShards; got != maxShards {
		t.Errorf("%d shards, want %d", got, maxShards)
	}
	if text := cfg.String(); strings.Contains(text, "hunter2") || !strings.Contains(text, "<secret>") {
		t.Errorf("the configuration is shown as\n%s", text)
	}
}
