package main

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gantryhq/gantry/engine/image"
	"github.com/gantryhq/gantry/internal/testenv"
	"github.com/gantryhq/gantry/services/build/base"
	"github.com/gantryhq/gantry/services/registry"
)

func TestANameWithoutARegistryMeansTheBuiltInOne(t *testing.T) {
	in := instance{registry: "127.0.0.1:5000"}
	for name, full := range map[string]string{
		"cart":                     "127.0.0.1:5000/cart:latest",
		"shop/cart:2":              "127.0.0.1:5000/shop/cart:2",
		"127.0.0.1:5000/shop/cart": "127.0.0.1:5000/shop/cart:latest",
		"ghcr.io/acme/cart:1":      "ghcr.io/acme/cart:1",
		"localhost/cart":           "localhost/cart:latest",
	} {
		if got, err := in.fullName(name); err != nil || got != full {
			t.Errorf("%q is %q, %v; want %q", name, got, err, full)
		}
	}
	if _, err := in.fullName("No Name"); !errors.As(err, new(usageError)) {
		t.Errorf("a bad name: %v", err)
	}
}

func TestImagesTravelBetweenRegistryAndMachine(t *testing.T) {
	testenv.NeedRoot(t)
	testenv.NeedProgram(t, "busybox", "busybox-static")
	in := startImageServices(t)
	ctx := context.Background()
	full, err := in.fullName("base/busybox")
	noError(t, err)
	_, err = base.Busybox(ctx, base.BusyboxOptions{Tag: full})
	noError(t, err)

	if name, err := in.pullName(ctx, "base/busybox"); err != nil || name != full {
		t.Errorf("pull means %q, %v", name, err)
	}
	if name, err := in.pullName(ctx, "nginx"); err != nil || name != "nginx:latest" && name != "nginx" {
		t.Errorf("pull of what only docker.io can have means %q, %v", name, err)
	}
	_, err = transfer(full, func(report func(image.Progress)) (*image.Summary, error) {
		return image.NewClient(in.dataDir).Pull(ctx, full, "", "", report)
	})
	noError(t, err)
	copied := in.registry + "/team/box:1"
	digest, err := in.push(ctx, full, copied)
	noError(t, err)

	rows, err := listImages(ctx, in)
	noError(t, err)
	var seen []string
	for _, r := range rows {
		seen = append(seen, r.Name+" "+strings.Join(r.Where, "+"))
		if r.Digest != digest || r.SizeBytes < 100<<10 {
			t.Errorf("row %+v", r)
		}
	}
	if want := []string{full + " registry+machine", copied + " registry"}; !slices.Equal(seen, want) {
		t.Errorf("images %v, want %v", seen, want)
	}
	var out bytes.Buffer
	noError(t, printImages(&out, rows))
	if !strings.Contains(out.String(), "registry, machine") {
		t.Errorf("table\n%s", out.String())
	}

	noError(t, in.remove(ctx, full, &out))
	if err := in.remove(ctx, full, &out); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("removed twice: %v", err)
	}
	if there, err := inRegistry(ctx, copied); err != nil || !there {
		t.Errorf("removing one name took another: %v", err)
	}
}

func TestBuildSecretsAndArgumentsAreReadAsDockerDoes(t *testing.T) {
	t.Setenv("FROM_ENV", "x")
	got, err := parseSecrets([]string{"id=a,src=/f", "id=b,env=B", "id=FROM_ENV", "type=file,id=c,source=/g"})
	noError(t, err)
	if got[0].File != "/f" || got[1].Env != "B" || got[2].Env != "FROM_ENV" || got[3].File != "/g" {
		t.Errorf("secrets %+v", got)
	}
	for _, bad := range []string{"src=/f", "id=a,mode=0400", ""} {
		if _, err := parseSecrets([]string{bad}); !errors.As(err, new(usageError)) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	args, err := buildArgs([]string{"A=1", "FROM_ENV", "UNSET_ANYWHERE", "E="})
	if err != nil || args["A"] != "1" || args["FROM_ENV"] != "x" || len(args) != 3 {
		t.Errorf("args %v, %v", args, err)
	}
}

// startImageServices runs a registry and an image store as serve does.
func startImageServices(t *testing.T) instance {
	t.Helper()
	data, err := os.MkdirTemp("", "images-cli-")
	noError(t, err)
	t.Cleanup(func() {
		noError(t, image.Cleanup(data))
		_ = os.RemoveAll(data)
	})
	reg, err := registry.New(registry.Config{DataDir: data})
	noError(t, err)
	srv := httptest.NewServer(reg)
	t.Cleanup(srv.Close)
	store, err := image.Open(image.Config{DataDir: data})
	noError(t, err)
	ctx, stop := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- store.Serve(ctx) }()
	t.Cleanup(func() {
		stop()
		noError(t, <-served)
		noError(t, store.Close())
	})
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		if _, err := image.NewClient(data).List(ctx); err == nil {
			break
		} else if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
	return instance{registry: strings.TrimPrefix(srv.URL, "http://"), dataDir: data}
}

func noError(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
