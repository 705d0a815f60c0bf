package alertmanager

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/alertmanager/alert"
	"github.com/prometheus/alertmanager/nflog"
	"github.com/prometheus/alertmanager/nflog/nflogpb"
	"github.com/prometheus/alertmanager/provider/mem"
	"github.com/prometheus/common/model"

	"github.com/gantryhq/gantry/internal/atomicfile"
)

// snapshot replaces a file by what write makes, and returns its size.
func snapshot(path string, write func(io.Writer) (int64, error)) (size int64, err error) {
	err = atomicfile.Replace(path, 0o600, func(w io.Writer) error {
		size, err = write(w)
		return err
	})
	return size, err
}

// notified is the log of notifications, on disk after each. It implements notify.NotificationLog.
type notified struct {
	log    *nflog.Log
	path   string
	saving sync.Mutex
	closed bool // guarded by saving: the directory may have another owner
}

// close waits for what is being written. What is sent after it is not remembered.
func (n *notified) close() {
	n.saving.Lock()
	n.closed = true
	n.saving.Unlock()
}

func (n *notified) Log(r *nflogpb.Receiver, group string, firing, resolved []uint64, store *nflog.Store, expiry time.Duration) error {
	if err := n.log.Log(r, group, firing, resolved, store, expiry); err != nil {
		return err
	}
	_, err := n.write()
	return err
}

func (n *notified) Query(params ...nflog.QueryParam) ([]*nflogpb.Entry, error) {
	return n.log.Query(params...)
}

// save forgets what is old.
func (n *notified) save() (int64, error) {
	if _, err := n.log.GC(); err != nil {
		return 0, err
	}
	return n.write()
}

func (n *notified) write() (int64, error) {
	n.saving.Lock() // of two snapshots the later one stays
	defer n.saving.Unlock()
	if n.closed {
		return 0, errors.New("write down a notification: alerting has ended")
	}
	return snapshot(n.path, n.log.Snapshot)
}

// saveSilences forgets what is old.
func (m *Manager) saveSilences() (int64, error) {
	if _, err := m.silences.GC(); err != nil {
		return 0, err
	}
	return m.writeSilences()
}

func (m *Manager) writeSilences() (int64, error) {
	m.silencesSaving.Lock()
	defer m.silencesSaving.Unlock()
	return snapshot(m.path("silences"), m.silences.Snapshot)
}

// remembering has silences on disk before it acknowledges them.
func (m *Manager) remembering(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Body = http.MaxBytesReader(w, r.Body, maxBody)
		if r.Method != http.MethodPost && r.Method != http.MethodDelete {
			h.ServeHTTP(w, r)
			return
		}
		answer := &held{ResponseWriter: w, code: http.StatusOK}
		h.ServeHTTP(answer, r)
		if _, err := m.writeSilences(); err != nil {
			m.Log.Error("silences cannot be written", "err", err)
			http.Error(w, `"the change is in force, but cannot be written down and will be lost at the next start: `+err.Error()+`"`, http.StatusInternalServerError)
			return
		}
		w.WriteHeader(answer.code)
		_, _ = w.Write(answer.body.Bytes()) // the client is gone when this fails
	})
}

// maxBody bounds what a request may send.
const maxBody = 4 << 20

// held is an answer that is not sent yet.
type held struct {
	http.ResponseWriter
	code int
	body bytes.Buffer
}

func (h *held) WriteHeader(code int)        { h.code = code }
func (h *held) Write(b []byte) (int, error) { return h.body.Write(b) }

// remembered are alerts of which those that fire are on disk, a moment after they changed.
type remembered struct {
	*mem.Alerts
	path    string
	changed chan struct{} // capacity 1
}

// grace is how long an alert of before the start goes on without being confirmed: rules need some
// evaluations until they know again what lasts long enough.
const grace = 3 * time.Minute

func (r *remembered) load(ctx context.Context) error {
	text, err := os.ReadFile(r.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var list []model.Alert
	if err := json.Unmarshal(text, &list); err != nil {
		return err
	}
	now := time.Now()
	for _, a := range list {
		a.EndsAt = now.Add(grace)
		if err := r.Alerts.Put(ctx, &alert.Alert{Alert: a, UpdatedAt: now, Timeout: true}); err != nil {
			return err
		}
	}
	return nil
}

func (r *remembered) Put(ctx context.Context, alerts ...*alert.Alert) error {
	if err := r.Alerts.Put(ctx, alerts...); err != nil {
		return err
	}
	select {
	case r.changed <- struct{}{}:
	default:
	}
	return nil
}

// saveDelay is how long changes are collected. It is shorter than any group waits for its first
// notification, so what somebody was told of is on disk.
const saveDelay = time.Second

func (r *remembered) keepSaving(ctx context.Context, log *slog.Logger) {
	var before []byte
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-r.changed:
			select {
			case <-ctx.Done():
			case <-time.After(saveDelay):
			}
		}
		text, err := r.encode()
		if err == nil && !bytes.Equal(text, before) {
			err = atomicfile.Write(r.path, text, 0o600)
		}
		if err != nil {
			log.Error("alerts cannot be written down", "err", err)
			continue
		}
		before = text
	}
}

// encode tells of alerts that fire. When they were confirmed last is left out, so that nothing is written
// as long as nothing changes.
func (r *remembered) encode() ([]byte, error) {
	list := []model.Alert{}
	pending := r.GetPending()
	defer pending.Close()
	for a := range pending.Next() {
		if !a.Data.Resolved() {
			kept := a.Data.Alert
			kept.EndsAt = time.Time{}
			list = append(list, kept)
		}
	}
	slices.SortFunc(list, func(a, b model.Alert) int { return cmp.Compare(a.Fingerprint(), b.Fingerprint()) })
	return json.Marshal(list)
}
