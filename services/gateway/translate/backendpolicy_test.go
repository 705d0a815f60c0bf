package translate

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/tools/txtar"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/gantryhq/gantry/api/v1alpha1"
)

// Each file in testdata/backend holds Services and BackendPolicies, what becomes of each
// port, and what the statuses say.
func TestBackendPolicies(t *testing.T) {
	files, err := filepath.Glob("testdata/backend/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("find golden files: %v, %d files", err, len(files))
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			archive, err := txtar.ParseFile(file)
			if err != nil {
				t.Fatal(err)
			}
			var list []*v1alpha1.BackendPolicy
			var services []*corev1.Service
			for _, doc := range strings.Split(string(archive.Files[0].Data), "\n---\n") {
				var kind metav1.TypeMeta
				if decode(t, doc, &kind); kind.Kind == "Service" {
					services = append(services, decode(t, doc, &corev1.Service{}))
				} else {
					list = append(list, decode(t, doc, &v1alpha1.BackendPolicy{}))
				}
			}
			policies := NewBackendPolicies(list, func(n types.NamespacedName) *corev1.Service {
				i := slices.IndexFunc(services, func(s *corev1.Service) bool { return nameOf(s) == n })
				if i < 0 {
					return nil
				}
				return services[i]
			})
			var upstreams bytes.Buffer
			for _, s := range services {
				for _, u := range Upstreams(s, nil, policies) {
					fmt.Fprintf(&upstreams, "%s\n", u.Service)
					if u.Policy != nil {
						u.Policy.Dump(&upstreams, "  ")
					}
				}
			}
			var status []string
			for name, s := range policies.Statuses {
				for _, a := range s.Ancestors {
					c := a.Conditions[0]
					status = append(status, strings.TrimRight(fmt.Sprintf("%s for %s %s/%s: %s=%s %s %s", name, *a.AncestorRef.Kind, a.AncestorRef.Name,
						deref(a.AncestorRef.SectionName, "*"), c.Type, c.Status, c.Reason, c.Message), " "))
				}
			}
			slices.Sort(status)
			text := txtar.Format(&txtar.Archive{Comment: archive.Comment, Files: []txtar.File{
				archive.Files[0], {Name: "upstreams", Data: upstreams.Bytes()}, {Name: "status", Data: []byte(strings.Join(status, "\n") + "\n")},
			}})
			if *update {
				if err := os.WriteFile(file, text, 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if want := txtar.Format(archive); !bytes.Equal(text, want) {
				t.Errorf("got\n%s\nwant\n%s\nIf the new result is right, run go test -update.", text, want)
			}
		})
	}
}
