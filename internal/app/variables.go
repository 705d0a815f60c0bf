package app

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/compose-spec/compose-go/v2/loader"
	"github.com/compose-spec/compose-go/v2/template"

	"github.com/gantryhq/gantry/internal/hint"
)

var variableName = regexp.MustCompile(`[A-Za-z_][A-Za-z0-9_]*`)

// unsetVariables collects, for loader.Options, the variables that a Compose file
// uses, gives no default for, and nobody has set.
func (c *compose) unsetVariables(o *loader.Options) {
	if o.Interpolate == nil {
		return // the library looks only for the files
	}
	replace := func(text string, value template.Mapping, cfg *template.Config) (string, error) {
		result, found, err := template.DefaultReplacementAppliedFunc(text, value, cfg)
		if name := variableName.FindString(text); err == nil && !found && !slices.Contains(c.unset, name) {
			c.unset = append(c.unset, name)
		}
		return result, err
	}
	o.Interpolate.Substitute = func(text string, value template.Mapping) (string, error) {
		return template.SubstituteWithOptions(text, value, template.WithoutLogging, template.WithReplacementFunction(replace))
	}
}

// nameUnset is about the variables that were empty because they are not set: a
// warning when all went well, else perhaps the reason why it did not.
func (c *compose) nameUnset(err error) error {
	if len(c.unset) == 0 {
		return err
	}
	slices.Sort(c.unset) // the library reads maps in any order
	names := strings.Join(c.unset, ", ")
	if err == nil {
		c.app.warnf("%s: not set, so empty: %s", c.file, names)
		return nil
	}
	remedy := fmt.Sprintf("set %s, empty now, in the environment or in .env", names)
	if other := hint.Of(err); other != "" {
		remedy += "; " + other
	}
	return hint.Wrap(err, "%s", remedy)
}
