// Package defaults holds the rules that every installation has: Prometheus rule files,
// compiled into the program, one for each part of the platform.
//
// Every alert is quiet in health and says, in trouble, which object is meant and what to do first.
// README.md beside this file is the form that each must have; the package's tests hold them to it.
//
// Imported by services/alerts.
package defaults

import (
	"embed"
	"fmt"
	"io/fs"

	"github.com/gantryhq/gantry/services/alerts/ruleset"
)

//go:embed *.yaml
var files embed.FS

// Files are the rule files, sorted by name.
func Files() ([]ruleset.File, error) {
	names, err := fs.Glob(files, "*.yaml")
	if err != nil {
		return nil, fmt.Errorf("read the rules that come with the program: %w", err)
	}
	var list []ruleset.File
	for _, name := range names {
		text, err := files.ReadFile(name)
		if err != nil {
			return nil, fmt.Errorf("read the rules that come with the program: %w", err)
		}
		f, err := ruleset.Parse("gantry/"+name, text)
		if err != nil {
			return nil, err
		}
		list = append(list, f)
	}
	return list, nil
}
