package defaults

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

var severities = map[string]bool{"critical": true, "warning": true, "info": true}

// Every alert says what it means, where, how bad and what to do first.
func TestEveryAlertHasTheFormOfTheReadme(t *testing.T) {
	files, err := Files()
	if err != nil {
		t.Fatal(err)
	}
	runbook, err := os.ReadFile("../../../docs/operate/alerts.md")
	if err != nil {
		t.Fatal(err)
	}
	anchors := map[string]bool{}
	for _, heading := range regexp.MustCompile(`(?m)^#+ (.+)$`).FindAllStringSubmatch(string(runbook), -1) {
		anchors["docs/operate/alerts.md#"+strings.ReplaceAll(strings.ToLower(heading[1]), " ", "-")] = true
	}
	seen := map[string]string{}
	for _, f := range files {
		part := strings.TrimSuffix(strings.TrimPrefix(f.Name, "gantry/"), ".yaml")
		for _, g := range f.Groups {
			if g.Name != part && !strings.HasPrefix(g.Name, part+"-") {
				t.Errorf("%s: group %s has another name than its file", f.Name, g.Name)
			}
			for _, r := range g.Rules {
				if r.Alert == "" {
					continue
				}
				if other := seen[r.Alert]; other != "" && other != f.Name {
					t.Errorf("%s: alert %s is in %s as well", f.Name, r.Alert, other)
				}
				seen[r.Alert] = f.Name
				if !severities[r.Labels["severity"]] && !(r.Alert == "Watchdog" && r.Labels["severity"] == "none") {
					t.Errorf("%s: alert %s has severity %q", f.Name, r.Alert, r.Labels["severity"])
				}
				for _, a := range []string{"summary", "description", "first", "runbook"} {
					if strings.TrimSpace(r.Annotations[a]) == "" {
						t.Errorf("%s: alert %s has no annotation %s", f.Name, r.Alert, a)
					}
				}
				for _, a := range []string{"object", "graph", "logs", "change"} {
					if r.Annotations[a] != "" {
						t.Errorf("%s: alert %s writes the annotation %s, which is filled in when it fires", f.Name, r.Alert, a)
					}
				}
				if !anchors[r.Annotations["runbook"]] {
					t.Errorf("%s: the runbook %s of alert %s does not exist", f.Name, r.Annotations["runbook"], r.Alert)
				}
			}
		}
	}
	if seen["Watchdog"] == "" {
		t.Error("no Watchdog")
	}
}
