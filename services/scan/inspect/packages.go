package inspect

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"

	cpb "github.com/google/osv-scalibr/binary/proto/config_go_proto"
	"github.com/google/osv-scalibr/extractor"
	"github.com/google/osv-scalibr/extractor/filesystem"
	"github.com/google/osv-scalibr/extractor/filesystem/language/dotnet/depsjson"
	"github.com/google/osv-scalibr/extractor/filesystem/language/golang/gobinary"
	"github.com/google/osv-scalibr/extractor/filesystem/language/java/archive"
	javameta "github.com/google/osv-scalibr/extractor/filesystem/language/java/archive/metadata"
	"github.com/google/osv-scalibr/extractor/filesystem/language/javascript/packagejson"
	"github.com/google/osv-scalibr/extractor/filesystem/language/php/composerlock"
	"github.com/google/osv-scalibr/extractor/filesystem/language/python/wheelegg"
	"github.com/google/osv-scalibr/extractor/filesystem/language/ruby/gemspec"
	"github.com/google/osv-scalibr/extractor/filesystem/language/rust/cargoauditable"
	"github.com/google/osv-scalibr/extractor/filesystem/os/apk"
	apkmeta "github.com/google/osv-scalibr/extractor/filesystem/os/apk/metadata"
	"github.com/google/osv-scalibr/extractor/filesystem/os/dpkg"
	dpkgmeta "github.com/google/osv-scalibr/extractor/filesystem/os/dpkg/metadata"
	"github.com/google/osv-scalibr/extractor/filesystem/os/rpm"
	rpmmeta "github.com/google/osv-scalibr/extractor/filesystem/os/rpm/metadata"
	"github.com/google/osv-scalibr/inventory"
	"github.com/google/osv-scalibr/log"

	"github.com/gantryhq/gantry/services/scan/report"
)

// detectors are what reads files for packages. An image holds what is installed, so
// these read the records of installation and the programs themselves; lock files,
// which only say what was meant, are read of PHP, which has nothing else.
type detectors struct {
	system   []filesystem.Extractor // databases of distributions, which need os-release
	programs []filesystem.Extractor // executables: asked only about what starts like one
	others   []filesystem.Extractor
}

type constructor func(*cpb.PluginConfig) (filesystem.Extractor, error)

func newDetectors() *detectors {
	quiet.Do(func() { log.SetLogger(silent{}) })
	all := func(constructors ...constructor) (out []filesystem.Extractor) {
		for _, c := range constructors {
			e, err := c(config)
			if err != nil {
				panic(err) // the configuration is ours and constant
			}
			out = append(out, e)
		}
		return out
	}
	return &detectors{
		system:   all(dpkg.New, apk.New, rpm.New),
		programs: all(gobinary.New, cargoauditable.New),
		others:   all(packagejson.New, wheelegg.New, archive.New, gemspec.New, composerlock.New, depsjson.New),
	}
}

// config limits what archives inside of files may unpack to.
var config = &cpb.PluginConfig{PluginSpecific: []*cpb.PluginSpecificConfig{{
	Config: &cpb.PluginSpecificConfig_JavaArchive{JavaArchive: &cpb.JavaArchiveConfig{
		MaxFileSizeBytes: 512 << 20, MaxOpenedBytes: 1 << 30, MaxZipDepth: 4,
	}},
}}}

// wanting returns who wants a file: at once, and when the layer has been read.
func (d *detectors) wanting(api filesystem.FileAPI, head []byte) (now, later []filesystem.Extractor) {
	for _, e := range d.system {
		if e.FileRequired(api) {
			later = append(later, e)
		}
	}
	if bytes.HasPrefix(head, []byte("\x7fELF")) {
		for _, e := range d.programs {
			if e.FileRequired(api) {
				now = append(now, e)
			}
		}
	}
	for _, e := range d.others {
		if e.FileRequired(api) {
			now = append(now, e)
		}
	}
	return now, later
}

// run calls a detector. A crash in one is an error about one file.
func run(ctx context.Context, e filesystem.Extractor, in *filesystem.ScanInput) (out inventory.Inventory, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("the detector crashed: %v", p)
		}
	}()
	return e.Extract(ctx, in)
}

// toPackage keeps of a package what reports need.
func toPackage(p *extractor.Package, path string) report.Package {
	out := report.Package{Name: p.Name, Version: p.Version, Ecosystem: p.Ecosystem().String(), Path: path, Licenses: licenses(p.Licenses)}
	switch m := p.Metadata.(type) {
	case *dpkgmeta.Metadata:
		out.Source, out.SourceVersion = m.SourceName, m.SourceVersion
	case *apkmeta.Metadata:
		out.Source = m.OriginName
	case *rpmmeta.Metadata:
		if m.Epoch > 0 {
			out.Version = strconv.Itoa(m.Epoch) + ":" + p.Version
		}
		if m.OSID == "rocky" { // whose records are by release
			major, _, _ := strings.Cut(m.OSVersionID, ".")
			out.Ecosystem = "Rocky Linux:" + major
		}
	case *javameta.Metadata:
		if m.GroupID != "" && m.ArtifactID != "" {
			out.Name = m.GroupID + ":" + m.ArtifactID
		}
	}
	if out.Source == out.Name {
		out.Source = ""
	}
	if u := p.PURL(); u != nil {
		out.PURL = u.String()
	}
	if out.Name == "go" && out.Ecosystem == "Go" {
		out.Name = "stdlib" // as vulnerability records call Go's own library
	}
	return out
}

func licenses(in []string) (out []string) {
	for _, l := range in {
		if l != "" {
			out = append(out, l)
		}
	}
	return out
}

// quiet keeps the library from writing to standard error: what matters it returns.
var quiet sync.Once

type silent struct{}

func (silent) Errorf(string, ...any) {}
func (silent) Error(...any)          {}
func (silent) Warnf(string, ...any)  {}
func (silent) Warn(...any)           {}
func (silent) Infof(string, ...any)  {}
func (silent) Info(...any)           {}
func (silent) Debugf(string, ...any) {}
func (silent) Debug(...any)          {}

var _ io.ReaderAt = (*viewFile)(nil) // which the library demands of files
