package registry

import (
	"crypto/sha256"
	"fmt"
	"io"
	"log"
	"net"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"
	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
)

// bucketEnv is the address of an S3 server: where it is set, the registries of all tests keep
// their content in a bucket there.
const bucketEnv = "GANTRY_TEST_S3"

// The credentials of the tests' servers.
const testKey, testSecret = "gantry", "a-secret-of-the-tests"

// testBucket is where the registry with a data directory keeps its content, "" for there.
func testBucket(dataDir string) string {
	endpoint := os.Getenv(bucketEnv)
	if endpoint == "" {
		return ""
	}
	return fmt.Sprintf("s3://registry/%x?region=us-east-1&endpoint=%s", sha256.Sum256([]byte(dataDir)), url.QueryEscape(endpoint))
}

// TestAllOfItHoldsWithABucket runs all other tests against a bucket instead of the disk, but
// for those that fill the disk with content.
func TestAllOfItHoldsWithABucket(t *testing.T) {
	if os.Getenv(bucketEnv) != "" {
		return // this is that run
	}
	server := s3(t)
	self, err := os.Executable()
	must(t, err)
	cmd := exec.CommandContext(t.Context(), self, "-test.run=^Test", "-test.skip=FullDisk|ConformanceSuite", "-test.v")
	cmd.Env = append(os.Environ(), bucketEnv+"="+server, "AWS_ACCESS_KEY_ID="+testKey, "AWS_SECRET_ACCESS_KEY="+testSecret)
	out, err := cmd.CombinedOutput()
	if n := strings.Count(string(out), "\n--- PASS"); err != nil || n < 30 {
		t.Fatalf("%d tests pass with a bucket: %v\n%s", n, err, out)
	}
}

// s3 starts an S3 server: one in memory, or the program that GANTRY_S3_SERVER names.
func s3(t *testing.T) string {
	t.Helper()
	if program := os.Getenv("GANTRY_S3_SERVER"); program != "" {
		return versity(t, program)
	}
	backend := s3mem.New()
	must(t, backend.CreateBucket("registry"))
	// Its log has a line for each answer that only describes an object.
	srv := httptest.NewUnstartedServer(gofakes3.New(backend).Server())
	srv.Config.ErrorLog = log.New(io.Discard, "", 0)
	srv.Start()
	t.Cleanup(srv.Close)
	return srv.URL
}

// versity starts the S3 server of that name (script/peers) over a directory.
func versity(t *testing.T, program string) string {
	t.Helper()
	dir := t.TempDir()
	must(t, os.Mkdir(filepath.Join(dir, "registry"), 0o700))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	address := l.Addr().String()
	must(t, l.Close())
	cmd := exec.Command(program, "--port", address, "--quiet", "posix", dir)
	cmd.Env = append(os.Environ(), "ROOT_ACCESS_KEY="+testKey, "ROOT_SECRET_KEY="+testSecret)
	cmd.Stderr = os.Stderr
	must(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	eventually(t, func() bool {
		conn, err := net.Dial("tcp", address)
		return err == nil && conn.Close() == nil
	})
	return "http://" + address
}

// objects counts the blobs in a bucket.
func objects(t *testing.T, address string) (n int) {
	t.Helper()
	u, err := url.Parse(address)
	must(t, err)
	at, err := url.Parse(u.Query().Get("endpoint"))
	must(t, err)
	c, err := minio.New(at.Host, &minio.Options{Creds: credentials.NewEnvAWS(), Region: "us-east-1"})
	must(t, err)
	for o := range c.ListObjectsIter(t.Context(), u.Host, minio.ListObjectsOptions{Prefix: strings.TrimPrefix(path.Join(u.Path, "docker/registry/v2/blobs"), "/"), Recursive: true}) {
		must(t, o.Err)
		n++
	}
	return n
}

func TestABucketThatDoesNotAnswerIsWaitedFor(t *testing.T) {
	t.Setenv("AWS_ACCESS_KEY_ID", testKey)
	t.Setenv("AWS_SECRET_ACCESS_KEY", testSecret)
	backend := s3mem.New()
	srv := httptest.NewServer(gofakes3.New(backend).Server())
	t.Cleanup(srv.Close)
	r, err := New(Config{DataDir: t.TempDir(), MinFreeBytes: 1, Storage: "s3://registry/a?region=us-east-1&endpoint=" + srv.URL})
	must(t, err)
	front := httptest.NewServer(r)
	t.Cleanup(front.Close)
	if got := get(t, front.URL+"/v2/"); got != 503 {
		t.Errorf("without its bucket the registry answers %d", got)
	}
	must(t, backend.CreateBucket("registry"))
	if got := get(t, front.URL+"/v2/"); got != 200 {
		t.Errorf("with its bucket the registry answers %d", got)
	}
	reg := served{r, strings.TrimPrefix(front.URL, "http://")}
	large, err := random.Image(40<<20, 1) // in parts
	must(t, err)
	reg.push(t, "app:1", large)
	verify(t, reg.ref(t, "app:1"), large)

	// The one that replaces it collects; it itself must not any more.
	second, err := New(Config{DataDir: t.TempDir(), MinFreeBytes: 1, Storage: "s3://registry/a?region=us-east-1&endpoint=" + srv.URL})
	must(t, err)
	collect(t, served{second, ""}, CollectOptions{})
	if _, err := r.Collect(t.Context(), CollectOptions{}); err == nil || !strings.Contains(err.Error(), "another registry has begun to use s3://registry/a") {
		t.Errorf("the former registry collects: %v", err)
	}
}

func TestAddressesOfBuckets(t *testing.T) {
	for address, says := range map[string]string{
		"s3://images":                             "",
		"s3://images/prefix?region=eu-central-1":  "",
		"s3://images/p?endpoint=http://host:9000": "",
		"https://host/images":                     "is not an address such as s3://",
		"s3:///prefix":                            "is not an address such as s3://",
		"s3://key:s3cret@images/":                 "has credentials",
		"s3://images?endpoint=host:9000":          "is not an address such as https://",
		"s3://images?endpoint=http://k:s3cret@h":  "is not an address such as https://",
		"s3://images?secret=s3cret":               "unknown parameter",
		"s3://images/%zz?x=s3cret":                "is no URL",
	} {
		_, err := New(Config{DataDir: t.TempDir(), Storage: address})
		if (err == nil) != (says == "") || err != nil && (!strings.Contains(err.Error(), says) || strings.Contains(err.Error(), "s3cret")) {
			t.Errorf("%s: %v, want %q", address, err, says)
		}
	}
}
