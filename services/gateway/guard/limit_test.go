package guard

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"runtime"
	"strings"
	"testing"
	"time"
)

func limited(t *testing.T, limits ...*Limit) *Rules {
	for _, l := range limits {
		l.Policy, l.Name = "TrafficPolicy/shop/test", l.ID
	}
	return adopted(t, &Rules{Limits: limits})
}

func TestABucketGivesBackEvenly(t *testing.T) {
	r := limited(t, &Limit{ID: "burst", Requests: 10, Window: time.Second, Burst: 3})
	q := request()
	for n := range 3 {
		if _, refused := r.ask(t, q); refused != nil {
			t.Fatalf("request %d of a burst of 3 is refused", n+1)
		}
	}
	_, refused := r.ask(t, q)
	if refused == nil || refused.Status != 429 || !strings.Contains(refused.Fields, "Retry-After: 1\r\n") || refused.Policy == "" {
		t.Fatalf("the fourth is answered with %+v", refused)
	}
	q.Now = noon.Add(100 * time.Millisecond)
	if _, refused := r.ask(t, q); refused != nil {
		t.Error("a tenth of a second gives one of ten back")
	}
	if _, refused := r.ask(t, q); refused == nil {
		t.Error("it gives two back")
	}
	q.Now = noon.Add(-time.Hour) // the clock is set back
	if _, refused := r.ask(t, q); refused == nil {
		t.Error("a clock that is set back gives everything back")
	}
	q.Now = noon.Add(-time.Hour + time.Second)
	if _, refused := r.ask(t, q); refused != nil {
		t.Error("a clock that was set back locks clients out")
	}
}

func TestWhatLimitsCountApart(t *testing.T) {
	client := func(a string) func(*Request) { return func(q *Request) { q.Client = netip.MustParseAddr(a) } }
	header := func(h ...string) func(*Request) { return func(q *Request) { q.Fields = fields{header: h} } }
	for _, c := range []struct {
		name  string
		limit Limit
		a, b  func(*Request)
		apart bool
	}{
		{"addresses", Limit{By: ByAddress}, client("192.0.2.1"), client("192.0.2.2"), true},
		{"mapped address", Limit{By: ByAddress}, client("192.0.2.1"), client("::ffff:192.0.2.1"), false},
		{"addresses of one IPv6 network", Limit{By: ByAddress}, client("2001:db8::1"), client("2001:db8::ffff:1"), false},
		{"IPv6 networks", Limit{By: ByAddress}, client("2001:db8::1"), client("2001:db8:0:1::1"), true},
		{"a header", Limit{By: ByHeader, Named: "X-Shop"}, header("X-Shop: a"), header("x-shop: b"), true},
		{"the route", Limit{By: ByRoute}, client("192.0.2.1"), client("192.0.2.2"), false},
		{"hosts", Limit{By: ByHost}, func(q *Request) { q.Host = "a" }, func(q *Request) { q.Host = "b" }, true},
		{"tenants", Limit{By: ByNamespace}, func(q *Request) { q.Namespace = "a" }, func(q *Request) { q.Namespace = "b" }, true},
		{"what the client says to be", Limit{By: ByAddress}, header("X-Forwarded-For: 1.1.1.1"), header("X-Forwarded-For: 2.2.2.2"), false},
		{"anonymous clients", Limit{By: ByClient}, client("192.0.2.1"), client("192.0.2.2"), true},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := c.limit
			l.ID, l.Requests, l.Window, l.Burst = "one", 1, time.Second, 1
			r := limited(t, &l)
			a, b := request(), request()
			c.a(a)
			c.b(b)
			r.ask(t, a)
			if _, refused := r.ask(t, b); (refused == nil) != c.apart {
				t.Errorf("counted apart: %v, want %v", refused == nil, c.apart)
			}
		})
	}
}

func TestAQuotaBeginsAnewWithItsWindow(t *testing.T) {
	r := limited(t, &Limit{ID: "daily", Requests: 2, Calendar: Day, By: ByAddress})
	q := request()
	r.ask(t, q)
	r.ask(t, q)
	_, refused := r.ask(t, q)
	if refused == nil || refused.Kind != "quota-exceeded" || !strings.Contains(refused.Fields, fmt.Sprintf("Retry-After: %d\r\n", 12*3600)) {
		t.Errorf("the third request of the day is answered with %+v", refused)
	}
	q.Now = time.Date(2026, 3, 2, 0, 0, 0, 0, time.UTC)
	if _, refused := r.ask(t, q); refused != nil {
		t.Error("the next day has no requests")
	}
}

func TestQuotasOutliveTheProcess(t *testing.T) {
	make := func() *Rules {
		return &Rules{Limits: []*Limit{{ID: "daily", Requests: 3, Calendar: Day, By: ByAddress}}}
	}
	first := NewKeeper(KeeperConfig{Now: func() time.Time { return noon }})
	r := make()
	first.Adopt([]*Rules{r})
	r.ask(t, request())
	r.ask(t, request())
	text, changed, err := first.Save()
	if err != nil || !changed {
		t.Fatalf("saved: %v, changed %v", err, changed)
	}
	second := NewKeeper(KeeperConfig{Now: func() time.Time { return noon }})
	if err := second.Load(text); err != nil {
		t.Fatal(err)
	}
	if again, _, _ := second.Save(); string(again) != string(text) {
		t.Error("quotas are lost when a process ends before it has read its policies")
	}
	r = make()
	second.Adopt([]*Rules{r})
	if _, refused := r.ask(t, request()); refused != nil {
		t.Error("the third request is refused")
	}
	if _, refused := r.ask(t, request()); refused == nil {
		t.Error("a restart gives the quota back")
	}
	if err := second.Load([]byte("{")); err == nil {
		t.Error("a damaged file is taken for quotas")
	}
}

func TestCountersStayWhenTheConfigurationChanges(t *testing.T) {
	k := NewKeeper(KeeperConfig{Now: func() time.Time { return noon }})
	rules := func(requests int64) *Rules {
		r := &Rules{Limits: []*Limit{{ID: "a", Requests: requests, Window: time.Second, Burst: requests}}}
		k.Adopt([]*Rules{r})
		return r
	}
	r := rules(1)
	r.ask(t, request())
	if _, refused := rules(1).ask(t, request()); refused == nil {
		t.Error("a change of something else gives the limit back")
	}
	k.Adopt(nil)
	if len(k.counters) != 0 {
		t.Error("the counters of a limit that is gone stay")
	}
}

// Whoever sends ever new keys takes a fixed amount of memory, and does not free
// those who have used theirs up.
func TestFloodsOfKeys(t *testing.T) {
	l := &Limit{ID: "flood", Requests: 10, Window: time.Minute, Burst: 10}
	r := limited(t, l)
	heavy := request()
	for range 10 {
		r.ask(t, heavy)
	}
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	p := &Pass{}
	q := request()
	for n := range uint64(1_000_000) {
		var a [16]byte
		binary.BigEndian.PutUint64(a[:], n<<8|0x20<<56)
		q.Client = netip.AddrFrom16(a)
		if r.Admit(q, p) != Admitted {
			t.Fatal("a client that sends its first request is refused")
		}
		p.Reset()
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 2<<20 {
		t.Errorf("a million keys take %d bytes, want at most 2 MiB", grown)
	}
	if _, refused := r.ask(t, heavy); refused == nil {
		t.Error("a flood of others has freed a client that had used its limit up")
	}
	if l.counters.evictions.Load() == 0 {
		t.Error("nobody counts the keys that had to go")
	}
}

func TestWhatIsSaidAboutLimits(t *testing.T) {
	r := limited(t, &Limit{ID: "burst", Requests: 10, Window: 2 * time.Second, Burst: 10}, &Limit{ID: "daily", Requests: 5, Calendar: Day, By: ByAddress})
	p := &Pass{}
	r.Admit(request(), p)
	want := "RateLimit-Policy: \"daily\";q=5;w=86400\r\nRateLimit: \"daily\";r=4;t=43200\r\n"
	if got := string(p.AppendStanding(nil)); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestARequestThatGoesElsewhereIsNotCounted(t *testing.T) {
	r := limited(t, &Limit{ID: "one", Requests: 1, Window: time.Second, Burst: 1}, &Limit{ID: "daily", Requests: 1, Calendar: Day, By: ByAddress})
	p := &Pass{}
	r.Admit(request(), p)
	p.Return()
	if _, refused := r.ask(t, request()); refused != nil {
		t.Errorf("it was counted twice: %+v", refused)
	}
}
