// Package gantry has no code: it holds the rules of the repository as tests.
// Each rule fails with the sentence that says why it exists.
package gantry

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/gantryhq/gantry"

// verdict is what the import law says about one import.
type verdict struct {
	allowed bool
	why     string // shown when it is not allowed
}

// judge is the import law: which package of this repository may import which.
// The first case that fits decides.
func judge(from, to string) verdict {
	in := func(p string, trees ...string) bool {
		return slices.ContainsFunc(trees, func(t string) bool { return p == t || strings.HasPrefix(p, t+"/") })
	}
	// unit is the part of the system a package belongs to: services/gateway for
	// services/gateway/route.
	unit := func(p string) string {
		return strings.Join(slices.Clip(strings.SplitN(p, "/", 3))[:min(2, strings.Count(p, "/")+1)], "/")
	}
	yes := verdict{allowed: true}
	switch {
	case unit(from) == unit(to):
		return yes
	case in(to, "test"):
		return verdict{in(from, "test"), "nothing depends on the tests"}
	case in(from, "cmd/gantry"):
		return verdict{!in(to, "engine/store") || from == "cmd/gantry", "only the main package puts the halves together"}
	case in(from, "cmd/gantry-shim", "cmd/gantry-init"):
		return verdict{in(to, "engine/shim"), "the shim program is the parent of every container, and the init becomes it: both stay tiny and independent of the rest"}
	case in(from, "api"):
		return verdict{false, "api holds types that everyone imports, so it imports nothing of ours"}
	case in(from, "internal"):
		return verdict{in(to, "internal", "api"), "internal serves both halves, so it belongs to neither"}
	case in(from, "test/isolation"):
		return verdict{in(to, "internal", "engine/node", "engine/shim"), "the isolation suite holds the container drivers themselves against each other, below all commands"}
	case in(from, "test/alerts"):
		return verdict{in(to, "internal", "api", "services/alerts", "services/monitor/objects"), "the alert suite evaluates the rules themselves, over the exposition of objects itself, in simulated time"}
	case in(from, "test"):
		return verdict{in(to, "internal", "api"), "tests drive the product from outside, by its commands and protocols"}
	case in(to, "internal", "api"):
		return yes
	case in(from, "services") && in(to, "engine"):
		return verdict{false, "services also run on a real cluster, where there is no engine: all they get is a *rest.Config"}
	case in(from, "services") && in(to, "services"):
		return verdict{false, "services find each other through the API, so that each can be installed alone"}
	case in(from, "engine") && in(to, "services"):
		return verdict{false, "the engine is Kubernetes refitted; the platform is built on it, not into it"}
	case in(to, "engine/store"):
		return verdict{in(from, "engine/apiserver"), "only the API server writes state: everyone else goes through the API, with its validation and its permissions"}
	case in(from, "engine/dockerapi") && (to == "engine/image" || to == "engine/node/runtime"):
		return yes // docker's images are the machine's, and the Kubernetes API has no words for streams and signals
	case in(to, "engine/image", "engine/shim", "engine/network"):
		return verdict{in(from, "engine/node"), "only the node agent makes containers, so only it touches images, the shim and the network"}
	case in(from, "engine") && in(to, "engine"):
		return verdict{false, "parts of the engine meet in the API, not in Go: pass a *rest.Config or a function"}
	}
	return verdict{false, "no rule in repo_test.go allows this import: add one with its reason, or find another way"}
}

func TestImportsFollowTheLaw(t *testing.T) {
	for _, file := range goFiles(t) {
		from := path.Dir(file.name)
		for _, spec := range file.syntax.Imports {
			to, ours := strings.CutPrefix(importPath(spec), module+"/")
			if !ours {
				continue
			}
			// Tests may run a suite of test/ against their package, and those of the
			// engine use a real neighbour rather than a mock.
			if strings.HasSuffix(file.name, "_test.go") &&
				(strings.HasPrefix(to, "test/") || strings.HasPrefix(from, "engine/") && strings.HasPrefix(to, "engine/")) {
				continue
			}
			if v := judge(from, to); !v.allowed {
				t.Errorf("%s imports %s: %s", file.name, to, v.why)
			}
		}
	}
}

func TestTheLawItself(t *testing.T) {
	for _, c := range []struct {
		from, to string
		allowed  bool
	}{
		{"services/gateway", "services/gateway/route", true},
		{"services/gateway/proxy", "services/gateway/route", true},
		{"services/gateway", "services/registry", false},
		{"services/gateway", "engine/store", false},
		{"services/gateway", "internal/hint", true},
		{"engine/apiserver/objects", "engine/store", true},
		{"engine/controllers", "engine/store", false},
		{"engine/node/driver", "engine/shim", true},
		{"engine/network", "engine/image", false},
		{"engine/dockerapi", "engine/image", true},
		{"engine/dockerapi", "engine/node", false},
		{"engine/apiserver", "services/gateway", false},
		{"internal/app", "engine/image", false},
		{"cmd/gantry", "engine/store", true},
		{"cmd/gantry-shim", "engine/shim/shimd", true},
		{"cmd/gantry-shim", "internal/hint", false},
		{"cmd/gantry-init", "engine/shim/initd", true},
		{"test/script", "engine/store", false},
		{"test/isolation", "engine/node/runtime", true},
		{"test/alerts", "services/alerts/defaults", true},
		{"test/alerts", "services/monitor/api", false},
		{"test/isolation/oci", "engine/store", false},
	} {
		if got := judge(c.from, c.to).allowed; got != c.allowed {
			t.Errorf("judge(%s, %s) allows: %v, want %v", c.from, c.to, got, c.allowed)
		}
	}
}

func TestEveryPackageHasOneComment(t *testing.T) {
	comments := map[string][]string{}
	for _, file := range goFiles(t) {
		if strings.HasSuffix(file.name, "_test.go") && path.Dir(file.name) != "." {
			continue
		}
		dir := path.Dir(file.name)
		comments[dir] = append(comments[dir], nil...)
		if file.syntax.Doc != nil {
			comments[dir] = append(comments[dir], file.name)
		}
	}
	for dir, files := range comments {
		if len(files) != 1 {
			t.Errorf("package %s has %d package comments %v: it needs exactly one, which says what the package is for, what it guarantees, what callers may not assume and who may import it", dir, len(files), files)
		}
	}
}

// maxLines is where a file has more than one subject.
const maxLines = 600

func TestFilesAreShort(t *testing.T) {
	for _, file := range goFiles(t) {
		if n := bytes.Count(file.text, []byte("\n")); n > maxLines && !ast.IsGenerated(file.syntax) {
			t.Errorf("%s has %d lines: split it by subject, at most %d", file.name, n, maxLines)
		}
	}
}

func TestPackageNamesSayWhatIsInside(t *testing.T) {
	banned := regexp.MustCompile(`^(utils?|commons?|helpers?|misc|structs?|shared|stuff)$`)
	for _, file := range goFiles(t) {
		if name := file.syntax.Name.Name; banned.MatchString(name) {
			t.Errorf("%s: package %s could hold anything: name it after what it does", file.name, name)
		}
	}
}

// sleeping lists the tests that may sleep outside a loop, and why.
var sleeping = map[string]string{
	"test/bench/scale_test.go":          "a benchmark counts what a step leaves to do as its cost, and measures memory at rest",
	"test/prometheus/bench_test.go":     "a benchmark lets what a start leaves to do end, and then measures for a while",
	"test/timeline/timeline_test.go":    "a benchmark lets what a step leaves to do end before it measures the next one",
	"engine/network/dns/server_test.go": "a name server that is slow is what the test is about",
}

// A sleep inside a loop is taken for polling; whether the loop has a deadline is
// for the reader to see.
func TestTestsDoNotSleepInsteadOfWaiting(t *testing.T) {
	used := map[string]bool{}
	for _, file := range goFiles(t) {
		if !strings.HasSuffix(file.name, "_test.go") || imports(file, "testing/synctest") {
			continue // under synctest a sleep takes no time
		}
		ast.Inspect(file.syntax, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.ForStmt, *ast.RangeStmt:
				return false
			case *ast.SelectorExpr:
				if n.Sel.Name == "Sleep" && isIdent(n.X, "time") {
					used[file.name] = true
				}
			}
			return true
		})
		if used[file.name] && sleeping[file.name] == "" {
			t.Errorf("%s calls time.Sleep: a sleep is either too short or too long; wait for the event, poll with a deadline, or use testing/synctest", file.name)
		}
	}
	for name := range sleeping {
		if !used[name] {
			t.Errorf("%s no longer sleeps: take it off the list in repo_test.go", name)
		}
	}
}

func TestTextsDoNotNameAMachine(t *testing.T) {
	// Written in parts so that this file does not match itself.
	forbidden := regexp.MustCompile(`(^|[\s"'=(:` + "`" + `])/(` + `work/main|work/shared|home/[a-z]+|tmp/brief` + `)\b`)
	for _, name := range tracked(t) {
		if name == "repo_test.go" {
			continue
		}
		text, err := os.ReadFile(name)
		if err != nil || bytes.IndexByte(text, 0) >= 0 {
			continue // gone since it was listed, or binary
		}
		for i, line := range strings.Split(string(text), "\n") {
			if m := forbidden.FindString(line); m != "" {
				t.Errorf("%s line %d has a path of somebody's machine: %q", name, i+1, strings.TrimSpace(m))
			}
		}
	}
}

func TestLinksBetweenDocumentsLead(t *testing.T) {
	link := regexp.MustCompile(`\]\(([^)#:\s]+)(#[^)]*)?\)`) // a colon means another site
	for _, name := range tracked(t) {
		if !strings.HasSuffix(name, ".md") {
			continue
		}
		text, err := os.ReadFile(name)
		if err != nil {
			continue // deleted but not yet committed
		}
		for _, m := range link.FindAllStringSubmatch(string(text), -1) {
			if _, err := os.Stat(filepath.Join(filepath.Dir(name), m[1])); err != nil {
				t.Errorf("%s links to %s, which does not exist", name, m[1])
			}
		}
	}
}

func TestEveryServiceHasTheSameShape(t *testing.T) {
	dirs, err := filepath.Glob("services/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range dirs {
		for _, name := range []string{"doc.go", "README.md"} {
			if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
				t.Errorf("%s has no %s: every service is read in the same order", dir, name)
			}
		}
		readme, _ := os.ReadFile(filepath.Join(dir, "README.md"))
		for _, heading := range []string{"Name", "Configuration", "Examples", "Metrics"} {
			if !regexp.MustCompile(`(?m)^#+ ` + heading + `\b`).Match(readme) {
				t.Errorf("%s/README.md has no section %q", dir, heading)
			}
		}
	}
}

// dependencies is where each module that our code imports has its reason.
const dependencies = "docs/dependencies.md"

func TestEveryDependencyHasAReason(t *testing.T) {
	imported := map[string]string{} // module to a file that imports it
	modules := requiredModules(t)
	for _, file := range goFiles(t) {
		if strings.HasPrefix(file.name, "examples/shop/") {
			continue // a module of its own, as an application would be
		}
		for _, spec := range file.syntax.Imports {
			if m := moduleOf(importPath(spec), modules); m != "" {
				imported[m] = file.name
			}
		}
	}
	doc, err := os.ReadFile(dependencies)
	if err != nil {
		t.Fatal(err)
	}
	explained := map[string]bool{}
	for _, m := range regexp.MustCompile("(?m)^\\| `([^`]+)` \\| \\S").FindAllStringSubmatch(string(doc), -1) {
		explained[m[1]] = true
		if imported[m[1]] == "" {
			t.Errorf("nothing imports %s any more: remove it from %s", m[1], dependencies)
		}
	}
	for m, file := range imported {
		if !explained[m] {
			t.Errorf("%s is a new dependency of %s: say in %s what it is for", m, file, dependencies)
		}
	}
}

// requiredModules lists the modules that go.mod requires, directly or not.
func requiredModules(t *testing.T) []string {
	t.Helper()
	text, err := os.ReadFile("go.mod")
	if err != nil {
		t.Fatal(err)
	}
	var modules []string
	for _, m := range regexp.MustCompile(`(?m)^(?:require )?\s*(\S+\.\S+) v\S+`).FindAllStringSubmatch(string(text), -1) {
		modules = append(modules, m[1])
	}
	return modules
}

// moduleOf returns the module that holds a package, or "" for our own and the
// standard library's.
func moduleOf(pkg string, modules []string) (best string) {
	for _, m := range modules {
		if (pkg == m || strings.HasPrefix(pkg, m+"/")) && len(m) > len(best) {
			best = m
		}
	}
	return best
}

// source is one Go file of the repository.
type source struct {
	name   string // with slashes, relative to the root
	text   []byte
	syntax *ast.File
}

// goFiles parses all Go files of the repository.
func goFiles(t *testing.T) []source {
	t.Helper()
	var files []source
	for _, name := range tracked(t) {
		if !strings.HasSuffix(name, ".go") || strings.Contains(name, "testdata/") {
			continue
		}
		text, err := os.ReadFile(name)
		if err != nil {
			continue // deleted but not yet committed
		}
		syntax, err := parser.ParseFile(token.NewFileSet(), name, text, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, source{name, text, syntax})
	}
	return files
}

// tracked lists the files under version control, or all files of an exported tree.
func tracked(t *testing.T) []string {
	t.Helper()
	if out, err := exec.Command("git", "ls-files", "-z").Output(); err == nil && len(out) > 0 {
		return strings.Split(strings.TrimSuffix(string(out), "\x00"), "\x00")
	}
	var names []string
	err := filepath.WalkDir(".", func(name string, d os.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (name == "bin" || name != "." && strings.HasPrefix(d.Name(), ".")):
			return filepath.SkipDir
		case !d.IsDir():
			names = append(names, filepath.ToSlash(name))
		}
		return nil
	})
	if err != nil {
		t.Fatal(fmt.Errorf("list files: %w", err))
	}
	return names
}

func importPath(spec *ast.ImportSpec) string {
	p, _ := strconv.Unquote(spec.Path.Value) // the parser has checked it
	return p
}

func imports(file source, name string) bool {
	return slices.ContainsFunc(file.syntax.Imports, func(s *ast.ImportSpec) bool { return importPath(s) == name })
}

func isIdent(e ast.Expr, name string) bool {
	id, ok := e.(*ast.Ident)
	return ok && id.Name == name
}
