package app

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/distribution/reference"
	"github.com/moby/patternmatcher"
	"github.com/moby/patternmatcher/ignorefile"

	"github.com/gantryhq/gantry/internal/hint"
)

// check finds what is wrong with a build before anything is built.
func (r BuildRequest) check() error {
	if info, err := os.Stat(r.Context); err != nil {
		return fmt.Errorf("context: %w", err)
	} else if !info.IsDir() {
		return fmt.Errorf("context: %s is not a folder", displayPath(r.Context))
	}
	if r.DockerfileInline != "" {
		return nil
	}
	if _, err := os.Stat(r.Dockerfile); err != nil {
		return hint.Wrap(fmt.Errorf("dockerfile: %w", err), "write a Dockerfile there, or name it with dockerfile:")
	}
	return nil
}

// inputHash identifies everything a build depends on that is known before
// building: the request itself, the content of its folders and its base images.
// Two equal hashes make building again pointless.
func (r BuildRequest) inputHash(bases map[string]string) (string, error) {
	h := sha256.New()
	visible := r
	visible.Context, visible.Dockerfile = "", "" // their content counts, not where they are
	if err := json.NewEncoder(h).Encode(struct {
		Request BuildRequest
		Bases   map[string]string
	}{visible, bases}); err != nil {
		return "", fmt.Errorf("hash build request: %w", err)
	}
	if r.DockerfileInline == "" {
		if err := hashFile(h, r.Dockerfile); err != nil {
			return "", err
		}
	}
	folders := []string{r.Context}
	for _, name := range slices.Sorted(maps.Keys(r.Contexts)) {
		if filepath.IsAbs(r.Contexts[name]) {
			folders = append(folders, r.Contexts[name])
		}
	}
	for _, folder := range folders {
		if err := hashFolder(h, folder, r.Dockerfile); err != nil {
			return "", err
		}
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// MarshalJSON leaves out the callback, which is no input of a build.
func (r BuildRequest) MarshalJSON() ([]byte, error) {
	type plain BuildRequest
	return json.Marshal(struct {
		plain
		Progress *struct{} `json:",omitempty"`
	}{plain: plain(r)})
}

func hashFolder(h io.Writer, folder, dockerfile string) error {
	ignored, err := ignorePatterns(folder, dockerfile)
	if err != nil {
		return err
	}
	return filepath.WalkDir(folder, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return fmt.Errorf("read build context: %w", err)
		}
		relative, err := filepath.Rel(folder, path)
		if err != nil || relative == "." {
			return err
		}
		skip, err := ignored.MatchesOrParentMatches(filepath.ToSlash(relative))
		if err != nil {
			return fmt.Errorf("match %s against .dockerignore: %w", relative, err)
		}
		if skip {
			if d.IsDir() && !ignored.Exclusions() {
				return filepath.SkipDir
			}
			return nil
		}
		info, err := d.Info()
		if err != nil {
			return fmt.Errorf("read build context: %w", err)
		}
		fmt.Fprintf(h, "%q %o\n", relative, info.Mode())
		switch {
		case info.Mode().IsRegular():
			return hashFile(h, path)
		case info.Mode().Type() == fs.ModeSymlink:
			target, err := os.Readlink(path)
			fmt.Fprintf(h, "%q\n", target)
			return err
		}
		return nil
	})
}

func hashFile(h io.Writer, path string) error {
	file, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("read build context: %w", err)
	}
	defer file.Close()
	content := sha256.New()
	if _, err := io.Copy(content, file); err != nil {
		return fmt.Errorf("read build context: %w", err)
	}
	fmt.Fprintf(h, "%x\n", content.Sum(nil))
	return nil
}

func ignorePatterns(folder, dockerfile string) (*patternmatcher.PatternMatcher, error) {
	var patterns []string
	for _, name := range []string{dockerfile + ".dockerignore", filepath.Join(folder, ".dockerignore")} {
		file, err := os.Open(name)
		if err != nil {
			continue
		}
		patterns, err = ignorefile.ReadAll(file)
		file.Close()
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", displayPath(name), err)
		}
		break
	}
	m, err := patternmatcher.New(patterns)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Join(displayPath(folder), ".dockerignore"), err)
	}
	return m, nil
}

// eachImage visits the image of every container in the application.
func (a *Application) eachImage(visit func(image string) string) {
	for _, o := range a.Objects {
		visitImages(o.Object, visit)
	}
}

func visitImages(node any, visit func(string) string) {
	switch node := node.(type) {
	case map[string]any:
		for key, value := range node {
			list, isList := value.([]any)
			if isList && (key == "containers" || key == "initContainers") {
				for _, c := range list {
					if c, ok := c.(map[string]any); ok {
						if image, ok := c["image"].(string); ok {
							c["image"] = visit(image)
						}
					}
				}
				continue
			}
			visitImages(value, visit)
		}
	case []any:
		for _, e := range node {
			visitImages(e, visit)
		}
	}
}

// checkImages refuses names that no registry could resolve.
func (a *Application) checkImages() error {
	for _, o := range a.Objects {
		var err error
		visitImages(o.Object, func(image string) string {
			if _, bad := reference.ParseNormalizedNamed(image); bad != nil && err == nil {
				err = hint.Wrap(fmt.Errorf("%s: image %q: %w", o.Origin, image, bad), "an image is written [REGISTRY/]NAME[:TAG], in lower case")
			}
			return image
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// uses tells whether any container runs the image.
func (a *Application) uses(name string) bool {
	found := false
	a.eachImage(func(image string) string {
		found = found || sameImage(image, name)
		return image
	})
	return found
}

// sameImage ignores the tag a manifest may write: the image is built right here.
func sameImage(image, name string) bool {
	rest, ok := strings.CutPrefix(image, name)
	return ok && (rest == "" || rest[0] == ':' && !strings.Contains(rest, "/"))
}

// pin writes the digests of what was built into the pod templates, so that an
// unchanged image changes no template and restarts nothing, and gives Jobs that
// run again when they change the name that says so.
func (a *Application) pin(refs map[string]string) error {
	a.eachImage(func(image string) string {
		for name, ref := range refs {
			if sameImage(image, name) {
				return ref
			}
		}
		return image
	})
	for _, o := range a.Objects {
		if o.GetAnnotations()[annotationRerun] == "" {
			continue
		}
		spec, err := json.Marshal(o.Object["spec"])
		if err != nil {
			return fmt.Errorf("%s: %w", o.Origin, err)
		}
		sum := sha256.Sum256(spec)
		o.SetName(o.GetName() + "-" + hex.EncodeToString(sum[:4]))
	}
	return nil
}
