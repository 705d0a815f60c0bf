package console

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"testing"

	"github.com/gantryhq/gantry/internal/testenv"
)

// TestCrowd opens every page with 200 pods, 50 routes and texts that attack it. GANTRY_PICTURES is a folder for
// a picture of each page.
func TestCrowd(t *testing.T) {
	testenv.LongRunning(t)
	testenv.NeedProgram(t, "openssl", "openssl")
	needBrowser(t)
	told, err := json.Marshal(map[string]string{"pictures": os.Getenv("GANTRY_PICTURES")})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*storyLimit)
	defer cancel()
	if out, err := exec.CommandContext(ctx, "node", "crowd.mjs", string(told)).CombinedOutput(); err != nil {
		t.Fatalf("the pages fail in a crowd: %v\n%s", err, out)
	}
}
