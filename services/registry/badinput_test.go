package registry

import (
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

func TestBadRequestsGetTheStandardsCodes(t *testing.T) {
	a := newAPI(t, Config{})
	good := a.image("r/a", digest.SHA256, nil)
	d := digest.FromBytes(good)
	zero := "sha256:" + strings.Repeat("0", 64)
	upload := a.do("POST", "r/a/blobs/uploads/", nil).Header.Get("Location")
	for _, c := range []struct {
		method, path string
		status       int
		code         string
	}{
		{"GET", "UPPER/manifests/1", 400, "NAME_INVALID"},
		{"GET", "a/../b/manifests/1", 400, "NAME_INVALID"},
		{"GET", "a/%2e%2e/%2e%2e/etc/manifests/1", 400, "NAME_INVALID"},
		{"GET", "_layers/manifests/1", 400, "NAME_INVALID"},
		{"GET", "r/a/_manifests/manifests/1", 400, "NAME_INVALID"},
		{"GET", strings.Repeat("a/", 130) + "b/manifests/1", 400, "NAME_INVALID"},
		{"GET", "r/a/manifests/..", 400, "TAG_INVALID"},
		{"GET", "r/a/manifests/.hidden", 400, "TAG_INVALID"},
		{"GET", "r/a/manifests/" + strings.Repeat("t", 129), 400, "TAG_INVALID"},
		{"GET", "r/a/manifests/sha256:short", 400, "DIGEST_INVALID"},
		{"GET", "r/a/manifests/md5:d41d8cd98f00b204e9800998ecf8427e", 400, "DIGEST_INVALID"},
		{"GET", "r/a/manifests/sha384:" + strings.Repeat("0", 96), 400, "DIGEST_INVALID"},
		{"GET", "r/a/blobs/sha256:../../../../etc/passwd", 404, "UNSUPPORTED"},
		{"GET", "r/a/blobs/sha256:" + strings.Repeat("0", 63) + "/", 404, "UNSUPPORTED"},
		{"GET", "r/a/blobs/" + zero, 404, "BLOB_UNKNOWN"},
		{"GET", "r/a/manifests/" + zero, 404, "MANIFEST_UNKNOWN"},
		{"GET", "r/a/referrers/latest", 400, "DIGEST_INVALID"},
		{"POST", "r/a/blobs/uploads/?digest=sha256:x", 400, "DIGEST_INVALID"},
		{"POST", "r/a/blobs/uploads/?mount=sha256:x", 400, "DIGEST_INVALID"},
		{"PATCH", "r/a/blobs/uploads/" + strings.Repeat("0", 8) + "-0000-0000-0000-" + strings.Repeat("0", 12), 404, "BLOB_UPLOAD_UNKNOWN"},
		{"PATCH", "r/a/blobs/uploads/..%2f..%2f..", 404, "UNSUPPORTED"},
		{"PUT", "r/a/blobs/uploads/x?digest=" + zero, 404, "BLOB_UPLOAD_UNKNOWN"},
		{"PUT", upload, 400, "DIGEST_INVALID"}, // which digest?
		{"GET", strings.Replace(upload, "r/a", "r/b", 1), 404, "BLOB_UPLOAD_UNKNOWN"},
		{"POST", "r/a/manifests/1", 405, "UNSUPPORTED"},
		{"GET", "nothing", 404, "UNSUPPORTED"},
		{"GET", "r/a/other/x", 404, "UNSUPPORTED"},
		{"DELETE", "r/a/manifests/none", 404, "MANIFEST_UNKNOWN"},
		{"GET", "r/b/manifests/" + d.String(), 404, "MANIFEST_UNKNOWN"}, // of another repository
		{"GET", "r/b/blobs/" + digest.FromString("{}").String(), 404, "BLOB_UNKNOWN"},
	} {
		a.do(c.method, c.path, nil).want(t, c.status, c.code)
	}
}

func TestInvalidManifestsAreRefused(t *testing.T) {
	a := newAPI(t, Config{})
	good := string(a.image("r/a", digest.SHA256, nil))
	change := func(old, with string) string {
		if !strings.Contains(good, old) {
			t.Fatalf("%s has no %s", good, old)
		}
		return strings.Replace(good, old, with, 1)
	}
	index := `{"schemaVersion":2,"mediaType":"` + v1.MediaTypeImageIndex + `","manifests":[]}`
	for name, c := range map[string]struct{ body, mediaType, code string }{
		"no JSON":              {"hello", v1.MediaTypeImageManifest, "MANIFEST_INVALID"},
		"truncated":            {good[:len(good)/2], v1.MediaTypeImageManifest, "MANIFEST_INVALID"},
		"two documents":        {good + good, v1.MediaTypeImageManifest, "MANIFEST_INVALID"},
		"schema 1":             {change(`"schemaVersion":2`, `"schemaVersion":1`), v1.MediaTypeImageManifest, "MANIFEST_INVALID"},
		"another type":         {good, v1.MediaTypeImageIndex, "MANIFEST_INVALID"},
		"unknown type":         {change(v1.MediaTypeImageManifest, "text/plain"), "text/plain", "MANIFEST_INVALID"},
		"no configuration":     {change(`"config":`, `"konfig":`), v1.MediaTypeImageManifest, "MANIFEST_INVALID"},
		"both kinds":           {change(`"schemaVersion":2`, `"schemaVersion":2,"manifests":[]`), v1.MediaTypeImageManifest, "MANIFEST_INVALID"},
		"index with layers":    {strings.Replace(index, `"manifests":[]`, `"manifests":[],"layers":[]`, 1), v1.MediaTypeImageIndex, "MANIFEST_INVALID"},
		"bad digest":           {change(digest.FromString("{}").String(), "sha256:../../x"), v1.MediaTypeImageManifest, "MANIFEST_INVALID"},
		"negative size":        {change(`"size":2`, `"size":-2`), v1.MediaTypeImageManifest, "MANIFEST_INVALID"},
		"wrong size":           {change(`"size":2`, `"size":3`), v1.MediaTypeImageManifest, "MANIFEST_INVALID"},
		"data of another":      {change(`"size":2`, `"size":2,"data":"W10="`), v1.MediaTypeImageManifest, "MANIFEST_INVALID"},
		"a layer is missing":   {change(digest.FromString("layer of r/a").String(), digest.FromString("x").String()), v1.MediaTypeImageManifest, "MANIFEST_BLOB_UNKNOWN"},
		"subject of no digest": {change(`"schemaVersion":2`, `"schemaVersion":2,"subject":{"mediaType":"a/b","digest":"x","size":1}`), v1.MediaTypeImageManifest, "MANIFEST_INVALID"},
	} {
		got := a.do("PUT", "r/a/manifests/bad", []byte(c.body), "Content-Type", c.mediaType).want(t, http.StatusBadRequest, c.code)
		if t.Failed() {
			t.Fatalf("%s: %s", name, got.body)
		}
	}
	a.do("PUT", "r/a/manifests/big", bytes.Repeat([]byte(" "), maxManifest+1)).want(t, http.StatusRequestEntityTooLarge, "SIZE_INVALID")
	a.do("PUT", "r/a/manifests/"+digest.FromString("other").String(), []byte(good)).want(t, http.StatusBadRequest, "DIGEST_INVALID")
	a.do("GET", "r/a/tags/list", nil).want(t, http.StatusNotFound, "NAME_UNKNOWN")
}

func TestUploadsThatLieOrEndEarlyLeaveNothing(t *testing.T) {
	data := t.TempDir()
	reg := serve(t, Config{DataDir: data})
	a := api{t, "http://" + reg.host + "/v2/"}
	content := bytes.Repeat([]byte("x"), 100_000)
	other := digest.FromString("something else").String()

	a.do("POST", "r/a/blobs/uploads/?digest="+other, content).want(t, http.StatusBadRequest, "DIGEST_INVALID")
	at := a.do("POST", "r/a/blobs/uploads/", nil).Header.Get("Location")
	a.do("PUT", at+"?digest="+other, content).want(t, http.StatusBadRequest, "DIGEST_INVALID")
	a.do("GET", at, nil).want(t, http.StatusNotFound, "BLOB_UPLOAD_UNKNOWN") // it ended
	if left := leftovers(t, data); len(left) > 0 {
		t.Errorf("after contents of another digest: %v", left)
	}

	// A connection that ends in the middle: of a whole blob nothing stays, an upload
	// stays as it was before the chunk.
	at = a.do("POST", "r/a/blobs/uploads/", nil).Header.Get("Location")
	a.do("PATCH", at, content[:10]).want(t, http.StatusAccepted, "")
	cut(t, reg.host, "PATCH "+at, content)
	eventually(t, func() bool {
		got := a.do("GET", at, nil)
		return got.Header.Get("Range") == "0-9"
	})
	a.do("PATCH", at, content[10:], "Content-Range", "10-99999").want(t, http.StatusAccepted, "")
	a.do("PATCH", at, []byte("abc"), "Content-Range", "100000-100009").want(t, http.StatusBadRequest, "SIZE_INVALID")
	a.do("PATCH", at, []byte("abc"), "Content-Range", "9-5").want(t, http.StatusRequestedRangeNotSatisfiable, "BLOB_UPLOAD_INVALID")
	a.do("PUT", at+"?digest="+digest.FromBytes(content).String(), nil).want(t, http.StatusCreated, "")
	cut(t, reg.host, "POST /v2/r/a/blobs/uploads/?digest="+other, content)
	eventually(t, func() bool { return len(leftovers(t, data)) == 0 })
}

// cut sends a request whose connection ends before its body does.
func cut(t *testing.T, host, request string, body []byte) {
	t.Helper()
	conn, err := net.Dial("tcp", host)
	must(t, err)
	_, err = fmt.Fprintf(conn, "%s HTTP/1.1\r\nHost: %s\r\nContent-Length: %d\r\n\r\n%s", request, host, len(body)+1000, body)
	must(t, err)
	must(t, conn.(*net.TCPConn).CloseWrite())
	_, _ = io.Copy(io.Discard, conn)
	must(t, conn.Close())
}

// leftovers are the files of uploads.
func leftovers(t *testing.T, data string) (files []string) {
	t.Helper()
	_ = filepath.WalkDir(filepath.Join(data, "registry"), func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && (strings.Contains(path, "/_uploads/") || strings.Contains(path, "/v2/tmp/")) {
			files = append(files, path)
		}
		return nil // what goes meanwhile is no leftover
	})
	return files
}

func eventually(t *testing.T, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !ok(); {
		if time.Now().After(deadline) {
			t.Fatal("not within a minute")
		}
		time.Sleep(5 * time.Millisecond)
	}
}
