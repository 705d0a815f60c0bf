package loki

import (
	"encoding/json"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/gorilla/websocket"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/gantryhq/gantry/services/logs/logql"
	"github.com/gantryhq/gantry/services/logs/search"
)

const (
	// maxTails is how many logs are followed at a time, by all.
	maxTails = 100
	// gather is how long lines are waited for that go into one message with the first.
	gather       = 100 * time.Millisecond
	pingInterval = 20 * time.Second
	writeTimeout = 10 * time.Second
	// maxMessage is how many lines go into one message.
	maxMessage = 1000
)

// tailMessage is one message to a follower.
type tailMessage struct {
	Streams []*stream `json:"streams"`
	Dropped []dropped `json:"dropped_entries,omitempty"`
}

// dropped says that a follower was too slow.
type dropped struct {
	Timestamp string            `json:"timestamp"`
	Labels    map[string]string `json:"labels"`
}

// tail follows logs over a WebSocket: first the lines since start, by default of the last hour and the
// last limit of them, then new ones as they come.
func (s *Server) tail(w http.ResponseWriter, r *http.Request) {
	may, err := s.cfg.Rights(r)
	if err != nil {
		writeError(w, err)
		return
	}
	a := &asked{r.Context(), r.URL.Query(), r.PathValue, may, time.Now()}
	q, err := s.parse(a)
	if err == nil && q.Log == nil {
		err = bad("only lines can be followed, no numbers")
	}
	var start time.Time
	var limit int
	if err == nil {
		start, _, err = a.span(defaultRange)
	}
	if err == nil {
		limit, err = a.limit()
	}
	if err == nil && s.tails.Add(1) > maxTails {
		err = failure{http.StatusTooManyRequests, errTails}
	}
	if err != nil {
		writeError(w, err)
		return
	}
	defer s.tails.Add(-1)
	upgrader := websocket.Upgrader{} // a page of another site may not connect
	conn, err := upgrader.Upgrade(w, r, nil)
	if err != nil {
		return // the client has been told
	}
	f := &following{rights: func() (func(string) bool, error) { return s.cfg.Rights(r) }, server: s, conn: conn, log: q.Log, gone: make(chan struct{}), shown: map[string]*last{}}
	defer conn.Close()
	go f.listen()
	if err := f.run(a, start, limit); err != nil {
		message := websocket.FormatCloseMessage(websocket.CloseInternalServerErr, err.Error()[:min(100, len(err.Error()))])
		_ = conn.WriteControl(websocket.CloseMessage, message, time.Now().Add(writeTimeout)) // it may have gone
	}
}

// following is one follower.
type following struct {
	server *Server
	conn   *websocket.Conn
	log    *logql.Log
	gone   chan struct{}    // closed when the other side is
	shown  map[string]*last // by labels of logs, what was found before following
	missed int64
	// rights asks again whose logs may be seen; may is the last answer.
	rights func() (func(namespace string) bool, error)
	may    atomic.Pointer[func(namespace string) bool]
}

// last is the end of what was shown of a log: its time and the lines of it.
type last struct {
	time  int64
	lines map[string]int
}

// listen reads what the other side says, which is nothing but that it goes.
func (f *following) listen() {
	defer close(f.gone)
	f.conn.SetReadLimit(4 << 10)
	for {
		if _, _, err := f.conn.ReadMessage(); err != nil {
			return
		}
	}
}

func (f *following) run(a *asked, start time.Time, limit int) error {
	f.may.Store(&a.may)
	sub := f.server.cfg.Hub.Follow(func(l labels.Labels) bool {
		return (*f.may.Load())(l.Get("namespace")) && (search.Fits(f.log.Matchers, l, false) || search.Fits(f.log.Matchers, l, true))
	})
	defer sub.Close()
	before, err := search.Lines(a, f.server.cfg.Source, f.log, search.Options{From: start.UnixNano(), To: time.Now().UnixNano(), Limit: limit, May: a.may})
	if err != nil {
		return err
	}
	for i, j := 0, len(before)-1; i < j; i, j = i+1, j-1 {
		before[i], before[j] = before[j], before[i]
	}
	for _, l := range before {
		f.note(l)
	}
	if len(before) > 0 {
		if err := f.send(before, 0); err != nil {
			return nil
		}
	}
	ping := time.NewTicker(pingInterval)
	defer ping.Stop()
	for {
		select {
		case <-f.gone:
			return nil
		case <-a.Done():
			return a.Err()
		case <-ping.C:
			may, err := f.rights()
			if err != nil {
				return err
			}
			f.may.Store(&may)
			if f.conn.WriteControl(websocket.PingMessage, nil, time.Now().Add(writeTimeout)) != nil {
				return nil
			}
		case n := <-sub.C:
			lines := f.gather(n, sub)
			missed := sub.Missed.Load()
			if len(lines) == 0 && missed == f.missed {
				continue
			}
			if f.send(lines, missed-f.missed) != nil {
				return nil
			}
			f.missed = missed
		}
	}
}

// gather takes what comes soon after a line.
func (f *following) gather(n search.News, sub *search.Subscription) (lines []search.Line) {
	enough := time.After(gather)
	for {
		if l, ok := f.fits(n); ok {
			lines = append(lines, l)
		}
		if len(lines) >= maxMessage {
			return lines
		}
		select {
		case n = <-sub.C:
		case <-enough:
			return lines
		case <-f.gone:
			return lines
		}
	}
}

// fits makes news a line when it is asked for and has not been shown.
func (f *following) fits(n search.News) (search.Line, bool) {
	if !search.Fits(f.log.Matchers, n.Labels, n.Entry.Stderr) {
		return search.Line{}, false
	}
	l := logql.Line{Text: n.Entry.Line, Stream: search.WithStream(n.Labels, n.Entry.Stderr)}
	for _, stage := range f.log.Stages {
		if !stage.Pass(&l) {
			return search.Line{}, false
		}
	}
	line := search.Line{Time: n.Entry.Time, Labels: l.Labels(), Text: string(l.Text)}
	return line, !f.wasShown(line)
}

// note remembers the end of what is shown of each log.
func (f *following) note(l search.Line) {
	key := string(l.Labels.Bytes(nil))
	e := f.shown[key]
	if e == nil || e.time < l.Time {
		e = &last{l.Time, map[string]int{}}
		f.shown[key] = e
	}
	if e.time == l.Time {
		e.lines[l.Text]++
	}
}

// wasShown tells whether a new line was among those found before.
func (f *following) wasShown(l search.Line) bool {
	e := f.shown[string(l.Labels.Bytes(nil))]
	switch {
	case e == nil || l.Time > e.time:
		return false
	case l.Time < e.time:
		return true
	case e.lines[l.Text] > 0:
		e.lines[l.Text]--
		return true
	}
	return false
}

func (f *following) send(lines []search.Line, missed int64) error {
	m := tailMessage{Streams: streamsOf(lines)}
	if missed > 0 {
		m.Dropped = []dropped{{strconv.FormatInt(time.Now().UnixNano(), 10), map[string]string{"dropped": strconv.FormatInt(missed, 10)}}}
	}
	text, err := json.Marshal(m)
	if err != nil {
		return err
	}
	if err := f.conn.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return err
	}
	return f.conn.WriteMessage(websocket.TextMessage, text)
}
