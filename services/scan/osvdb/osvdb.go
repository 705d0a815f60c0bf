// Package osvdb keeps a vulnerability database that is searched without a network.
//
// [Import] turns records in the OSV format (https://ossf.github.io/osv-schema/), as
// osv.dev publishes them one archive per ecosystem, into one file that answers "what
// is known about this package" with a few page reads; [Push] and [Fetch] keep it in
// a registry as an OCI artefact, so that it travels like an image: copied, pinned by
// digest, carried to a machine without internet. The same records always make the
// same file. docs/formats/osv-db.md describes it.
//
// A [DB] is safe for concurrent use. Callers may not assume that a file that was not
// made here can be read safely: fetch it by digest, and search it in a process that
// may fail. Only services/scan and cmd/gantry import this package.
package osvdb

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/gantryhq/gantry/internal/hint"
)

// formatVersion changes when older programs cannot read the file.
const formatVersion = 1

var (
	metaBucket = []byte("\x00about") // no ecosystem has such a name
	metaKey    = []byte("about")
)

// About says what a database holds.
type About struct {
	Format     int            `json:"format"`
	Records    int            `json:"records"`    // advisories, each counted once
	Newest     time.Time      `json:"newest"`     // when the newest of them was last changed
	Ecosystems map[string]int `json:"ecosystems"` // advisories that concern each
	Skipped    int            `json:"skipped"`    // withdrawn, or of no package that can be looked up
}

// Advisory is what is known about one package in one record.
type Advisory struct {
	ID       string   `json:"id"`
	Aliases  []string `json:"aliases,omitempty"`
	Summary  string   `json:"summary,omitempty"`
	Severity Severity `json:"severity"`
	Score    float64  `json:"score,omitempty"`  // CVSS base score, 0 when there is none
	Vector   string   `json:"vector,omitempty"` // CVSS vector
	Ranges   []Range  `json:"ranges,omitempty"`
	Versions []string `json:"versions,omitempty"` // affected ones, where the record lists rather than delimits them
}

// Range is a list of events on the line of a package's versions.
type Range []Event

// Event starts or ends being affected. Exactly one field is set.
type Event struct {
	Introduced   string `json:"i,omitempty"` // "0" is before every version
	Fixed        string `json:"f,omitempty"`
	LastAffected string `json:"l,omitempty"`
}

func (e Event) version() string { return e.Introduced + e.Fixed + e.LastAffected }

// DB is an open database.
type DB struct {
	bolt  *bolt.DB
	about About
}

// Open opens a file that [Import] has made.
func Open(path string) (*DB, error) {
	if _, err := os.Stat(path); err != nil {
		return nil, fmt.Errorf("open vulnerability database: %w", err)
	}
	b, err := bolt.Open(path, 0o444, &bolt.Options{ReadOnly: true, Timeout: time.Second})
	if err != nil {
		return nil, fmt.Errorf("open vulnerability database %s: %w", path, err)
	}
	db := &DB{bolt: b}
	err = b.View(func(tx *bolt.Tx) error {
		meta := tx.Bucket(metaBucket)
		if meta == nil {
			return errors.New("it is not a vulnerability database")
		}
		return json.Unmarshal(meta.Get(metaKey), &db.about)
	})
	if err == nil && db.about.Format != formatVersion {
		err = hint.Wrap(fmt.Errorf("its format is %d, this program reads %d", db.about.Format, formatVersion), "make it again with `gantry scan db import`")
	}
	if err != nil {
		return nil, fmt.Errorf("open vulnerability database %s: %w", path, errors.Join(err, b.Close()))
	}
	return db, nil
}

// Close ends the use of the file.
func (db *DB) Close() error { return db.bolt.Close() }

// About says what the database holds.
func (db *DB) About() About { return db.about }

// Package is what is looked up, by the names that OSV records use: of a Debian
// binary package that is its source package.
type Package struct {
	Ecosystem string // with release: "Debian:12", "PyPI"
	Name      string
	Version   string
}

// Match is an advisory that affects a package.
type Match struct {
	Advisory
	Fixed string // the first version without it, or "" when there is none yet
}

// Match returns what affects p, ordered by id. A version that its ecosystem cannot
// compare matches only where a record names it literally.
func (db *DB) Match(p Package) ([]Match, error) {
	family, release := splitEcosystem(p.Ecosystem)
	if family == "" || p.Name == "" || p.Version == "" {
		return nil, nil
	}
	var found []Match
	err := db.bolt.View(func(tx *bolt.Tx) error {
		bucket := tx.Bucket([]byte(family))
		if bucket == nil {
			return nil
		}
		prefix := append([]byte(normalName(family, p.Name)), 0)
		cursor := bucket.Cursor()
		for k, v := cursor.Seek(prefix); bytes.HasPrefix(k, prefix); k, v = cursor.Next() {
			of, _, _ := strings.Cut(string(k[len(prefix):]), "\x00")
			if !sameRelease(family, release, of) {
				continue
			}
			var a Advisory
			if err := json.Unmarshal(v, &a); err != nil {
				return fmt.Errorf("record %q: %w", k, err)
			}
			if affected, fixed := affects(a, family, p.Version); affected {
				found = append(found, Match{Advisory: a, Fixed: fixed})
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("search vulnerability database: %w", err)
	}
	slices.SortFunc(found, func(a, b Match) int { return strings.Compare(a.ID, b.ID) })
	return slices.CompactFunc(found, func(a, b Match) bool { return a.ID == b.ID }), nil
}

// splitEcosystem parts "Debian:12" into the family and its release.
func splitEcosystem(ecosystem string) (family, release string) {
	family, release, _ = strings.Cut(ecosystem, ":")
	return family, release
}

// sameRelease says whether a record for one release concerns another. Where one of
// both does not say which release it means, it does.
func sameRelease(family, installed, recorded string) bool {
	if installed == "" || recorded == "" || installed == recorded {
		return true
	}
	switch family {
	case "Ubuntu": // "22.04" is recorded as "22.04:LTS"; "Pro:22.04:LTS" is another archive
		return strings.TrimSuffix(recorded, ":LTS") == strings.TrimSuffix(installed, ":LTS")
	case "Debian", "Rocky Linux", "AlmaLinux": // recorded by major version
		major, _, _ := strings.Cut(installed, ".")
		return major == recorded
	case "Red Hat": // by product, version and repository: "enterprise_linux:9::appstream"
		return redHatProduct(installed) == redHatProduct(recorded)
	case "SUSE": // "15.5" is recorded as "Linux Enterprise Server 15 SP5", and by module
		major, minor, _ := strings.Cut(installed, ".")
		version := " " + major
		if minor != "" && minor != "0" {
			version += " SP" + minor
		}
		return strings.HasSuffix(recorded, version) &&
			(strings.HasPrefix(recorded, "Linux Enterprise Server ") || strings.HasPrefix(recorded, "Linux Enterprise Module for "))
	}
	return false
}

// redHatProduct is a product with its major version: the repository that a package came
// from is not known of what is installed, and minor versions of a system share records.
func redHatProduct(release string) string {
	release, _, _ = strings.Cut(release, "::")
	product, version, _ := strings.Cut(release, ":")
	if product == "enterprise_linux" {
		version, _, _ = strings.Cut(version, ".")
	}
	return product + ":" + version
}

// normalName is a package's name as its ecosystem compares it.
func normalName(family, name string) string {
	switch family {
	case "PyPI":
		return strings.NewReplacer("_", "-", ".", "-").Replace(strings.ToLower(name))
	case "NuGet", "Packagist":
		return strings.ToLower(name)
	}
	return name
}
