package trust

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/gantryhq/gantry/internal/atomicfile"
)

// acceptance is an image that a policy has accepted. It holds for every policy with the same
// demands and keys. The same content in another repository has other claims beside it.
type acceptance struct {
	Fingerprint string    `json:"fingerprint"` // of the policy
	Image       string    `json:"image"`       // repository@digest
	Recheck     time.Time `json:"recheck,omitzero"`
	Until       time.Time `json:"until,omitzero"`
}

func (a acceptance) key() string { return a.Fingerprint + "/" + a.Image }

// fresh is whether it holds without another look.
func (a acceptance) fresh(now time.Time) bool {
	return a.valid(now) && (a.Recheck.IsZero() || now.Before(a.Recheck))
}

// valid is whether it holds when another look is impossible.
func (a acceptance) valid(now time.Time) bool { return a.Until.IsZero() || now.Before(a.Until) }

// memory holds what was accepted, over restarts in a file of one line for each. It is safe for
// concurrent use.
type memory struct {
	file string // or ""
	log  *slog.Logger

	mu       sync.Mutex // guards following
	accepted map[string]acceptance
	lines    int // in the file
}

func openMemory(dir string, log *slog.Logger) (*memory, error) {
	m := &memory{log: log, accepted: map[string]acceptance{}}
	if dir == "" {
		return m, nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("remember accepted images: %w", err)
	}
	m.file = filepath.Join(dir, "accepted.jsonl")
	f, err := os.Open(m.file)
	if errors.Is(err, fs.ErrNotExist) {
		return m, nil
	}
	if err != nil {
		return nil, fmt.Errorf("remember accepted images: %w", err)
	}
	defer f.Close()
	for lines := json.NewDecoder(f); ; m.lines++ {
		var a acceptance
		err := lines.Decode(&a)
		if errors.Is(err, io.EOF) {
			return m, nil
		}
		if err != nil { // a line that was cut: what is forgotten is looked at again
			return m, m.rewrite()
		}
		m.accepted[a.key()] = a
	}
}

func (m *memory) get(fingerprint, image string) (acceptance, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	a, ok := m.accepted[acceptance{Fingerprint: fingerprint, Image: image}.key()]
	return a, ok
}

// add remembers an acceptance. That it cannot be written only makes a restart slower.
func (m *memory) add(a acceptance) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.accepted) >= remembered {
		for k := range m.accepted { // any one: it is looked at again when it is needed
			delete(m.accepted, k)
			break
		}
	}
	m.accepted[a.key()] = a
	if err := m.write(a); err != nil {
		m.log.Warn("cannot remember an accepted image", "err", err)
	}
}

func (m *memory) write(a acceptance) error {
	if m.file == "" {
		return nil
	}
	if m.lines > 2*remembered {
		return m.rewrite()
	}
	line, err := json.Marshal(a)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(m.file, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(append(line, '\n'))
	m.lines++
	return errors.Join(err, f.Close())
}

func (m *memory) rewrite() error {
	var text []byte
	for _, a := range m.accepted {
		line, err := json.Marshal(a)
		if err != nil {
			return err
		}
		text = append(append(text, line...), '\n')
	}
	m.lines = len(m.accepted)
	return atomicfile.Write(m.file, text, 0o600)
}

// keep forgets what was accepted for other policies than those with the given fingerprints.
func (m *memory) keep(fingerprints map[string]bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	before := len(m.accepted)
	for k, a := range m.accepted {
		if !fingerprints[a.Fingerprint] {
			delete(m.accepted, k)
		}
	}
	if len(m.accepted) == before || m.file == "" {
		return
	}
	if err := m.rewrite(); err != nil {
		m.log.Warn("cannot forget accepted images", "err", err)
	}
}
