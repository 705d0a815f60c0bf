package scan

import (
	"context"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"

	"github.com/gantryhq/gantry/services/scan/report"
)

const patience = time.Minute

// waitFor waits for a signed result with a vulnerability.
func waitFor(t *testing.T, results *Results, image name.Digest, id string) (found *report.Report) {
	t.Helper()
	poll(t, "a result of "+image.Name()+" with "+id, func() bool {
		r, err := results.Get(context.Background(), image)
		if err != nil {
			t.Fatal(err)
		}
		if r == nil {
			return false
		}
		for _, v := range r.Vulnerabilities {
			if v.ID == id {
				found = r
			}
		}
		return found != nil
	})
	return found
}

func poll(t *testing.T, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !done(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("there is not %s after %v", what, patience)
		}
	}
}

func emptyIndex() v1.ImageIndex { return empty.Index }
