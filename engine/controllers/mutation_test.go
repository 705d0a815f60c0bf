package controllers_test

import (
	"os"
	"os/exec"
	"strings"
	"testing"
)

// TestNobodyWritesToSharedObjects runs stories again in a process in which
// client-go watches every object that informers hold and panics when one is
// changed. The API hands its own objects to components of this process, so a
// controller that wrote to one would change what everybody reads.
func TestNobodyWritesToSharedObjects(t *testing.T) {
	const detector = "KUBE_CACHE_MUTATION_DETECTOR"
	if os.Getenv(detector) != "" {
		t.Skip("this process is that one")
	}
	stories := strings.ReplaceAll("a deployment rolls|a statefulset starts|a job completes|a daemon set|fits nowhere|endpoints follow|a budget limits|a quota limits|gets a directory", " ", "_")
	again := exec.CommandContext(t.Context(), os.Args[0], "-test.run", "^TestCluster$/("+stories+")", "-test.v")
	again.Env = append(os.Environ(), detector+"=true")
	out, err := again.CombinedOutput()
	if err != nil {
		t.Fatalf("%v:\n%s", err, out)
	}
	if ran := strings.Count(string(out), "--- PASS: TestCluster/"); ran != strings.Count(stories, "|")+1 {
		t.Fatalf("%d stories ran, want those of %q:\n%s", ran, stories, out)
	}
}
