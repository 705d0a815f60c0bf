// Package script runs the command-line stories in testdata against one real
// Gantry: a newcomer's commands, typed one after the other, with real clients
// (kubectl, docker, curl) and real containers.
//
// Each story gets a namespace of its own ($NS) and may use the instance that
// all share (KUBECONFIG, $DATA, $GATEWAY, $REGISTRY). A story that stops or
// breaks Gantry starts an instance of its own with the `instance` command.
package script

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/gantryhq/gantry/internal/testenv"
	"github.com/gantryhq/gantry/test/instance"
)

func TestScripts(t *testing.T) {
	testenv.NeedContainers(t)
	testenv.LongRunning(t)
	shared := instance.Start(t, instance.Options{})
	shared.BaseImages(t)
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		RequireExplicitExec: true,
		Setup:               func(env *testscript.Env) error { return setUp(env, shared) },
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"retry":      retry,
			"envsubst":   envsubst,
			"tokens":     tokens,
			"prometheus": prometheus,
			"forge":      forge,
			"webhook":    webhook,
			"sink":       sink,
		},
	})
}

// setUp gives a story its namespace and the shared instance's addresses.
func setUp(env *testscript.Env, in *instance.Instance) error {
	namespace := "story-" + strings.ToLower(filepath.Base(env.WorkDir))
	namespace = strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '-' {
			return r
		}
		return '-'
	}, namespace)
	env.Setenv("PATH", filepath.Dir(in.Program)+string(os.PathListSeparator)+os.Getenv("PATH"))
	env.Setenv("HOME", env.WorkDir)
	env.Setenv("KUBECONFIG", in.Kubeconfig())
	env.Setenv("DATA", in.DataDir)
	env.Setenv("BIN", filepath.Dir(in.Program))
	env.Setenv("REGISTRY", in.Registry)
	env.Setenv("GATEWAY", in.Gateway)
	env.Setenv("NS", namespace)
	out, err := exec.Command("kubectl", "--kubeconfig", in.Kubeconfig(), "create", "namespace", namespace).CombinedOutput()
	if err != nil {
		return fmt.Errorf("create namespace %s: %w: %s", namespace, err, out)
	}
	env.Defer(func() {
		_ = exec.Command("kubectl", "--kubeconfig", in.Kubeconfig(), "delete", "namespace", namespace, "--wait=false").Run()
	})
	return nil
}

// retry runs a program until it succeeds (or, negated, fails) and its output
// contains the wanted text: retry 30s 'text' program args...
func retry(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) < 3 {
		ts.Fatalf("usage: retry DURATION TEXT PROGRAM [ARG...]")
	}
	limit, err := time.ParseDuration(args[0])
	ts.Check(err)
	var out []byte
	for deadline := time.Now().Add(limit); ; <-time.After(50 * time.Millisecond) {
		cmd := exec.Command(args[2], args[3:]...)
		cmd.Dir = ts.MkAbs(".")
		cmd.Env = append(os.Environ(), "KUBECONFIG="+ts.Getenv("KUBECONFIG"), "HOME="+ts.Getenv("HOME"), "PATH="+ts.Getenv("PATH"),
			"DOCKER_HOST="+ts.Getenv("DOCKER_HOST"))
		out, err = cmd.CombinedOutput()
		if good := err == nil && strings.Contains(string(out), args[1]); good != neg {
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("%s: not within %s: %v\n%s", strings.Join(args[2:], " "), limit, err, out)
		}
	}
}

// envsubst replaces $REGISTRY, $NS and $GATEWAY in files, and $$ by a dollar.
func envsubst(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 {
		ts.Fatalf("usage: envsubst FILE...")
	}
	for _, name := range args {
		path := ts.MkAbs(name)
		text := os.Expand(ts.ReadFile(name), func(v string) string {
			if v == "$" {
				return "$"
			}
			return ts.Getenv(v)
		})
		ts.Check(os.WriteFile(path, []byte(text), 0o600))
	}
}
