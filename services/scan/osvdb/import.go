package osvdb

import (
	"archive/zip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/gantryhq/gantry/internal/hint"
)

const (
	maxRecordBytes = 32 << 20 // of one record; the largest of osv.dev's are a few MB
	batch          = 20_000   // entries written in one transaction
	summaryRunes   = 160
)

// record is the part of the OSV schema that matching and showing need.
type record struct {
	ID        string     `json:"id"`
	Modified  time.Time  `json:"modified"`
	Withdrawn *time.Time `json:"withdrawn"`
	Aliases   []string   `json:"aliases"`
	Upstream  []string   `json:"upstream"`
	Related   []string   `json:"related"`
	Summary   string     `json:"summary"`
	Details   string     `json:"details"`
	Severity  []severity `json:"severity"`
	Affected  []affected `json:"affected"`
	Database  words      `json:"database_specific"`
}

type severity struct {
	Type  string `json:"type"`
	Score string `json:"score"`
}

// words are where databases without CVSS say how bad it is.
type words struct {
	Severity any `json:"severity"` // a word, mostly
	Urgency  any `json:"urgency"`
}

type affected struct {
	Package struct {
		Ecosystem string `json:"ecosystem"`
		Name      string `json:"name"`
	} `json:"package"`
	Severity  []severity `json:"severity"`
	Versions  []string   `json:"versions"`
	Ecosystem words      `json:"ecosystem_specific"`
	Database  words      `json:"database_specific"`
	Ranges    []struct {
		Type   string `json:"type"`
		Events []struct {
			Introduced   string `json:"introduced"`
			Fixed        string `json:"fixed"`
			LastAffected string `json:"last_affected"`
		} `json:"events"`
	} `json:"ranges"`
}

// Import makes a database at path from JSON records: files, zip archives of them, or
// directories with both. report, when not nil, is told from time to time how many
// records were read. On an error nothing is left at path.
func Import(ctx context.Context, path string, sources []string, report func(records int)) (about About, err error) {
	if _, err := os.Stat(path); err == nil {
		return About{}, fmt.Errorf("make vulnerability database: %s exists", path)
	}
	defer func() {
		if err != nil {
			_ = os.Remove(path) // half of a database; the error says why
		}
	}()
	b, err := bolt.Open(path, 0o644, &bolt.Options{NoSync: true, NoFreelistSync: true})
	if err != nil {
		return About{}, fmt.Errorf("make vulnerability database: %w", err)
	}
	w := &writer{db: b, report: report, about: About{Format: formatVersion, Ecosystems: map[string]int{}}}
	for _, source := range sources {
		if err := w.source(ctx, source); err != nil {
			return About{}, errors.Join(fmt.Errorf("import vulnerabilities: %w", err), b.Close())
		}
	}
	if w.about.Records == 0 {
		return About{}, errors.Join(hint.Wrap(fmt.Errorf("import vulnerabilities: there is no OSV record in %s", strings.Join(sources, ", ")),
			"give the all.zip of an ecosystem from osv.dev, or a directory of its JSON files"), b.Close())
	}
	if err := errors.Join(w.finish(), b.Sync(), b.Close()); err != nil {
		return About{}, fmt.Errorf("make vulnerability database: %w", err)
	}
	return w.about, nil
}

// writer collects entries and writes them in batches, each in the order of its keys.
type writer struct {
	db      *bolt.DB
	entries []entry
	about   About
	report  func(int)
}

type entry struct{ family, key, value string }

func (w *writer) source(ctx context.Context, path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return w.file(ctx, path)
	}
	return filepath.WalkDir(path, func(name string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || !isSource(name) {
			return err
		}
		return w.file(ctx, name)
	})
}

func isSource(name string) bool {
	return strings.EqualFold(filepath.Ext(name), ".json") || strings.EqualFold(filepath.Ext(name), ".zip")
}

func (w *writer) file(ctx context.Context, path string) error {
	if strings.EqualFold(filepath.Ext(path), ".zip") {
		return w.archive(ctx, path)
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return w.record(ctx, path, f)
}

func (w *writer) archive(ctx context.Context, path string) error {
	z, err := zip.OpenReader(path)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	defer z.Close()
	for _, f := range z.File {
		if f.FileInfo().IsDir() || !strings.EqualFold(filepath.Ext(f.Name), ".json") {
			continue
		}
		r, err := f.Open()
		if err != nil {
			return fmt.Errorf("%s: %s: %w", path, f.Name, err)
		}
		err = w.record(ctx, path+": "+f.Name, r)
		if err := errors.Join(err, r.Close()); err != nil {
			return err
		}
	}
	return nil
}

func (w *writer) record(ctx context.Context, name string, r io.Reader) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	text, err := io.ReadAll(io.LimitReader(r, maxRecordBytes+1))
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if len(text) > maxRecordBytes {
		return fmt.Errorf("%s: a record has more than %d MB", name, maxRecordBytes>>20)
	}
	var rec record
	if err := json.Unmarshal(text, &rec); err != nil {
		return fmt.Errorf("%s is not an OSV record: %w", name, err)
	}
	if rec.ID == "" {
		return fmt.Errorf("%s is not an OSV record: it has no id", name)
	}
	return w.add(&rec)
}

func (w *writer) add(rec *record) error {
	w.about.Records++
	if w.report != nil && w.about.Records%1000 == 0 {
		w.report(w.about.Records)
	}
	if rec.Modified.After(w.about.Newest) {
		w.about.Newest = rec.Modified.UTC()
	}
	before, seen := len(w.entries), map[string]bool{}
	for i := range rec.Affected {
		if rec.Withdrawn != nil {
			break
		}
		e, err := rec.entry(i)
		if err != nil {
			return err
		}
		if e == nil {
			continue
		}
		w.entries = append(w.entries, *e)
		if !seen[e.family] {
			seen[e.family] = true
			w.about.Ecosystems[e.family]++
		}
	}
	if len(w.entries) == before {
		w.about.Skipped++
	}
	if len(w.entries) >= batch {
		return w.flush()
	}
	return nil
}

// entry is what is kept of one affected package, nil when it cannot be looked up.
func (rec *record) entry(i int) (*entry, error) {
	of := &rec.Affected[i]
	family, release := splitEcosystem(of.Package.Ecosystem)
	if family == "" || of.Package.Name == "" {
		return nil, nil
	}
	a := Advisory{ID: rec.ID, Aliases: rec.aliases(), Summary: rec.summary()}
	a.Severity, a.Score, a.Vector = rec.worst(of)
	for _, r := range of.Ranges {
		if r.Type != "ECOSYSTEM" && r.Type != "SEMVER" {
			continue
		}
		var events Range
		for _, e := range r.Events {
			if ev := (Event{Introduced: e.Introduced, Fixed: e.Fixed, LastAffected: e.LastAffected}); ev.version() != "" {
				events = append(events, ev)
			}
		}
		if len(events) > 0 {
			a.Ranges = append(a.Ranges, events)
		}
	}
	if len(a.Ranges) == 0 { // else the list says the same again, at length
		a.Versions = of.Versions
	}
	if len(a.Ranges) == 0 && len(a.Versions) == 0 {
		return nil, nil
	}
	value, err := json.Marshal(a)
	if err != nil {
		return nil, err
	}
	key := strings.Join([]string{normalName(family, of.Package.Name), release, rec.ID, fmt.Sprintf("%04d", i)}, "\x00")
	return &entry{family, key, string(value)}, nil
}

// aliases are the other names of the same vulnerability: a distribution's record
// names the CVE that it is about as its upstream, older ones as related.
func (rec *record) aliases() []string {
	out := slices.Concat(rec.Aliases, rec.Upstream)
	if len(out) == 0 {
		for _, id := range rec.Related {
			if strings.HasPrefix(id, "CVE-") {
				out = append(out, id)
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func (rec *record) summary() string {
	text := rec.Summary
	if text == "" {
		text, _, _ = strings.Cut(strings.TrimSpace(rec.Details), "\n")
	}
	if runes := []rune(text); len(runes) > summaryRunes {
		return string(runes[:summaryRunes-1]) + "…"
	}
	return text
}

// worst is the record's severity for one package: of the CVSS vectors the highest,
// else what the database calls it. Malicious packages are critical.
func (rec *record) worst(of *affected) (s Severity, score float64, vector string) {
	own := of.Severity
	if len(own) == 0 {
		own = rec.Severity
	}
	for _, v := range own {
		if got, sev := fromVector(v.Score); got > score {
			s, score, vector = sev, got, v.Score
		} else if got == 0 && s == Unknown {
			s = fromWord(v.Score) // as Ubuntu's
		}
	}
	for _, w := range []any{of.Database.Severity, of.Ecosystem.Severity, rec.Database.Severity, of.Ecosystem.Urgency, of.Database.Urgency} {
		if word, ok := w.(string); ok && s == Unknown {
			s = fromWord(word)
		}
	}
	if strings.HasPrefix(rec.ID, "MAL-") {
		s = Critical
	}
	return s, score, vector
}

func (w *writer) flush() error {
	slices.SortFunc(w.entries, func(a, b entry) int {
		if c := strings.Compare(a.family, b.family); c != 0 {
			return c
		}
		return strings.Compare(a.key, b.key)
	})
	err := w.db.Update(func(tx *bolt.Tx) error {
		for _, e := range w.entries {
			bucket, err := tx.CreateBucketIfNotExists([]byte(e.family))
			if err != nil {
				return err
			}
			if err := bucket.Put([]byte(e.key), []byte(e.value)); err != nil {
				return fmt.Errorf("record %q: %w", e.key, err)
			}
		}
		return nil
	})
	w.entries = w.entries[:0]
	return err
}

func (w *writer) finish() error {
	if err := w.flush(); err != nil {
		return err
	}
	about, err := json.Marshal(w.about)
	if err != nil {
		return err
	}
	return w.db.Update(func(tx *bolt.Tx) error {
		bucket, err := tx.CreateBucketIfNotExists(metaBucket)
		if err != nil {
			return err
		}
		return bucket.Put(metaKey, about)
	})
}
