package apiserver

import (
	"net/http"
	"testing"

	definitions "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensions "k8s.io/apiextensions-apiserver/pkg/apiserver"
	crdstore "k8s.io/apiextensions-apiserver/pkg/registry/customresourcedefinition"
	"k8s.io/apiserver/pkg/authentication/user"

	"github.com/gantryhq/gantry/engine/apiserver/inproc"
)

// A definition that nobody has validated is taken only from the component that creates what
// this program brings along; its name alone, from the network, does not suffice.
func TestOnlyOwnDefinitionsAreTakenForValid(t *testing.T) {
	strategy := ownDefinitions{crdstore.NewStrategy(apiextensions.Scheme)}
	empty := &definitions.CustomResourceDefinition{}
	if len(strategy.Validate(t.Context(), empty)) == 0 {
		t.Error("an empty definition from the network is valid")
	}
	for name, valid := range map[string]bool{Installer: true, "system:admin": false, "": false} {
		asked := false
		h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			asked = true
			if got := len(strategy.Validate(r.Context(), empty)) == 0; got != valid {
				t.Errorf("an empty definition of %q is valid: %v, want %v", name, got, valid)
			}
		})
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://gantry.internal/", nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := inproc.New(h, &user.DefaultInfo{Name: name}).RoundTrip(req)
		if err != nil || !asked {
			t.Fatalf("%v; asked: %v", err, asked)
		}
		resp.Body.Close()
	}
}
