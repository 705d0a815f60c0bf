package registry

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// api is a client of the distribution API that hides nothing.
type api struct {
	t    *testing.T
	base string // http://HOST/v2/
}

// answer is a response with its body.
type answer struct {
	*http.Response
	body []byte
}

func newAPI(t *testing.T, cfg Config) api {
	cfg.DataDir = t.TempDir()
	return api{t, "http://" + serve(t, cfg).host + "/v2/"}
}

// do sends a request; headers are pairs.
func (a api) do(method, path string, body []byte, headers ...string) answer {
	a.t.Helper()
	if !strings.HasPrefix(path, "/") {
		path = a.base + path
	} else {
		path = strings.TrimSuffix(a.base, "/v2/") + path
	}
	req, err := http.NewRequestWithContext(a.t.Context(), method, path, bytes.NewReader(body))
	must(a.t, err)
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	must(a.t, err)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	must(a.t, err)
	return answer{resp, text}
}

// want fails unless the answer has the status and, when it is an error, the code.
func (r answer) want(t *testing.T, status int, code string) answer {
	t.Helper()
	var got struct {
		Errors []struct{ Code, Message string }
	}
	if code != "" && r.Request.Method != http.MethodHead {
		if err := json.Unmarshal(r.body, &got); err != nil || len(got.Errors) != 1 || got.Errors[0].Message == "" {
			t.Errorf("%s %s: the body is no error of the specification: %s", r.Request.Method, r.Request.URL, r.body)
			return r
		}
		if got.Errors[0].Code != code {
			t.Errorf("%s %s: code %s, want %s (%s)", r.Request.Method, r.Request.URL, got.Errors[0].Code, code, got.Errors[0].Message)
		}
	}
	if r.StatusCode != status {
		t.Errorf("%s %s: status %d, want %d: %s", r.Request.Method, r.Request.URL, r.StatusCode, status, r.body)
	}
	return r
}

// pushBlob pushes in one request and returns how a manifest describes it.
func (a api) pushBlob(repo string, content []byte, algorithm digest.Algorithm) v1.Descriptor {
	a.t.Helper()
	d := algorithm.FromBytes(content)
	a.do("POST", repo+"/blobs/uploads/?digest="+d.String(), content).want(a.t, http.StatusCreated, "")
	return v1.Descriptor{MediaType: "application/octet-stream", Digest: d, Size: int64(len(content))}
}

// image returns the manifest of an image whose blobs it pushed.
func (a api) image(repo string, algorithm digest.Algorithm, change func(*v1.Manifest)) []byte {
	a.t.Helper()
	m := v1.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageManifest,
		Config: a.pushBlob(repo, []byte(`{}`), algorithm),
		Layers: []v1.Descriptor{a.pushBlob(repo, []byte("layer of "+repo), algorithm)},
	}
	m.Config.MediaType = v1.MediaTypeImageConfig
	if change != nil {
		change(&m)
	}
	raw, err := json.Marshal(m)
	must(a.t, err)
	return raw
}

func (a api) putManifest(repo, reference string, raw []byte) answer {
	a.t.Helper()
	return a.do("PUT", repo+"/manifests/"+reference, raw, "Content-Type", v1.MediaTypeImageManifest)
}

func TestABlobArrivesInEveryWayOfTheSpecification(t *testing.T) {
	content := bytes.Repeat([]byte("0123456789abcdef"), 4096)
	half := len(content) / 2
	ways := map[string]func(a api, d digest.Digest) answer{
		"one POST": func(a api, d digest.Digest) answer {
			return a.do("POST", "r/a/blobs/uploads/?digest="+d.String(), content)
		},
		"POST and PUT": func(a api, d digest.Digest) answer {
			at := a.do("POST", "r/a/blobs/uploads/", nil).want(t, http.StatusAccepted, "").Header.Get("Location")
			return a.do("PUT", at+"?digest="+d.String(), content)
		},
		"a stream": func(a api, d digest.Digest) answer {
			at := a.do("POST", "r/a/blobs/uploads/", nil).Header.Get("Location")
			at = a.do("PATCH", at, content).want(t, http.StatusAccepted, "").Header.Get("Location")
			return a.do("PUT", at+"?digest="+d.String(), nil)
		},
		"chunks": func(a api, d digest.Digest) answer {
			at := a.do("POST", "r/a/blobs/uploads/", nil).Header.Get("Location")
			got := a.do("PATCH", at, content[:half], "Content-Range", fmt.Sprintf("0-%d", half-1)).want(t, http.StatusAccepted, "")
			if got.Header.Get("Range") != fmt.Sprintf("0-%d", half-1) {
				t.Errorf("range after the first chunk: %s", got.Header.Get("Range"))
			}
			a.do("PATCH", at, content[:half], "Content-Range", fmt.Sprintf("0-%d", half-1)).want(t, http.StatusRequestedRangeNotSatisfiable, "BLOB_UPLOAD_INVALID")
			got = a.do("GET", at, nil).want(t, http.StatusNoContent, "")
			if got.Header.Get("Range") != fmt.Sprintf("0-%d", half-1) {
				t.Errorf("range of the upload: %s", got.Header.Get("Range"))
			}
			return a.do("PUT", at+"?digest="+d.String(), content[half:], "Content-Range", fmt.Sprintf("%d-%d", half, len(content)-1))
		},
	}
	for _, algorithm := range []digest.Algorithm{digest.SHA256, digest.SHA512} {
		for _, way := range slices.Sorted(maps.Keys(ways)) {
			t.Run(algorithm.String()+" "+way, func(t *testing.T) {
				a := newAPI(t, Config{})
				d := algorithm.FromBytes(content)
				a.do("GET", "r/a/blobs/"+d.String(), nil).want(t, http.StatusNotFound, "BLOB_UNKNOWN")
				got := ways[way](a, d).want(t, http.StatusCreated, "")
				if got.Header.Get("Docker-Content-Digest") != d.String() {
					t.Errorf("digest header %q", got.Header.Get("Docker-Content-Digest"))
				}
				if back := a.do("GET", got.Header.Get("Location"), nil).want(t, http.StatusOK, ""); !bytes.Equal(back.body, content) {
					t.Error("what comes back is something else")
				}
				if head := a.do("HEAD", "r/a/blobs/"+d.String(), nil).want(t, http.StatusOK, ""); head.ContentLength != int64(len(content)) {
					t.Errorf("length %d", head.ContentLength)
				}
				part := a.do("GET", "r/a/blobs/"+d.String(), nil, "Range", "bytes=16-31").want(t, http.StatusPartialContent, "")
				if string(part.body) != "0123456789abcdef" {
					t.Errorf("a range gives %q", part.body)
				}
				a.do("GET", "r/a/blobs/"+d.String(), nil, "Range", fmt.Sprintf("bytes=%d-", len(content))).want(t, http.StatusRequestedRangeNotSatisfiable, "")
				a.do("DELETE", "r/a/blobs/"+d.String(), nil).want(t, http.StatusAccepted, "")
				a.do("GET", "r/a/blobs/"+d.String(), nil).want(t, http.StatusNotFound, "BLOB_UNKNOWN")
				a.do("DELETE", "r/a/blobs/"+d.String(), nil).want(t, http.StatusNotFound, "BLOB_UNKNOWN")
			})
		}
	}
}

func TestABlobIsMountedFromANamedRepositoryOrFromAny(t *testing.T) {
	a := newAPI(t, Config{})
	d := a.pushBlob("from/one", []byte("shared"), digest.SHA256).Digest
	for _, query := range []string{"&from=from/one", ""} {
		repo := fmt.Sprintf("to/r%d", len(query))
		got := a.do("POST", repo+"/blobs/uploads/?mount="+d.String()+query, nil).want(t, http.StatusCreated, "")
		if back := a.do("GET", got.Header.Get("Location"), nil); string(back.body) != "shared" {
			t.Errorf("%s: %q", repo, back.body)
		}
	}
	unknown := digest.FromString("never pushed")
	for _, query := range []string{"&from=from/one", "&from=../../etc", ""} {
		a.do("POST", "to/x/blobs/uploads/?mount="+unknown.String()+query, nil).want(t, http.StatusAccepted, "")
	}
}

func TestManifestsAreKeptByDigestAndTag(t *testing.T) {
	for _, algorithm := range []digest.Algorithm{digest.SHA256, digest.SHA512} {
		a := newAPI(t, Config{})
		raw := a.image("shop/cart", algorithm, nil)
		d := algorithm.FromBytes(raw)
		a.do("GET", "shop/cart/manifests/"+d.String(), nil).want(t, http.StatusNotFound, "MANIFEST_UNKNOWN")
		got := a.do("PUT", "shop/cart/manifests/"+d.String()+"?tag=1&tag=one", raw, "Content-Type", v1.MediaTypeImageManifest).want(t, http.StatusCreated, "")
		if tags := got.Header.Values("OCI-Tag"); !slices.Equal(tags, []string{"1", "one"}) {
			t.Errorf("OCI-Tag %v", tags)
		}
		for _, reference := range []string{d.String(), "1", "one"} {
			for _, method := range []string{"GET", "HEAD"} {
				got := a.do(method, "shop/cart/manifests/"+reference, nil).want(t, http.StatusOK, "")
				if got.Header.Get("Content-Type") != v1.MediaTypeImageManifest || got.Header.Get("Docker-Content-Digest") != d.String() ||
					got.ContentLength != int64(len(raw)) || method == "GET" && !bytes.Equal(got.body, raw) {
					t.Errorf("%s %s: %v %s", method, reference, got.Header, got.body)
				}
			}
		}
		a.do("DELETE", "shop/cart/manifests/one", nil).want(t, http.StatusAccepted, "")
		a.do("GET", "shop/cart/manifests/one", nil).want(t, http.StatusNotFound, "MANIFEST_UNKNOWN")
		a.do("GET", "shop/cart/manifests/1", nil).want(t, http.StatusOK, "")
		a.do("DELETE", "shop/cart/manifests/"+d.String(), nil).want(t, http.StatusAccepted, "")
		a.do("GET", "shop/cart/manifests/1", nil).want(t, http.StatusNotFound, "MANIFEST_UNKNOWN")
		a.do("GET", "shop/cart/manifests/"+d.String(), nil).want(t, http.StatusNotFound, "MANIFEST_UNKNOWN")
	}
}

func TestLayersThatAreElsewhereNeedNotBeHere(t *testing.T) {
	a := newAPI(t, Config{})
	foreign := digest.FromString("far away")
	with := func(d v1.Descriptor) []byte {
		return a.image("r/a", digest.SHA256, func(m *v1.Manifest) { m.Layers = append(m.Layers, d) })
	}
	a.putManifest("r/a", "1", with(v1.Descriptor{MediaType: "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", Digest: foreign, Size: 9, URLs: []string{"https://store.example/x"}})).want(t, http.StatusCreated, "")
	a.putManifest("r/a", "2", with(v1.Descriptor{MediaType: "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", Digest: foreign, Size: 9})).want(t, http.StatusCreated, "")
	a.putManifest("r/a", "3", with(v1.Descriptor{MediaType: v1.MediaTypeImageLayerGzip, Digest: foreign, Size: 9})).want(t, http.StatusBadRequest, "MANIFEST_BLOB_UNKNOWN")
}

func TestReferrersAreListedByTypeAndInPages(t *testing.T) {
	a := newAPI(t, Config{})
	subject := a.image("r/a", digest.SHA256, nil)
	of := v1.Descriptor{MediaType: v1.MediaTypeImageManifest, Digest: digest.FromBytes(subject), Size: int64(len(subject))}
	list := func(query string) (index v1.Index, resp answer) {
		resp = a.do("GET", "r/a/referrers/"+of.Digest.String()+query, nil).want(t, http.StatusOK, "")
		must(t, json.Unmarshal(resp.body, &index))
		if resp.Header.Get("Content-Type") != v1.MediaTypeImageIndex || index.MediaType != v1.MediaTypeImageIndex || index.SchemaVersion != 2 || index.Manifests == nil {
			t.Errorf("not an index: %s", resp.body)
		}
		return index, resp
	}
	if index, _ := list(""); len(index.Manifests) != 0 {
		t.Errorf("referrers of what is not there: %v", index.Manifests)
	}
	var referrers []digest.Digest // the subject comes last: it may
	for i := range 4 {
		raw := a.image("r/a", digest.SHA256, func(m *v1.Manifest) {
			m.Subject = &of
			m.Annotations = map[string]string{"number": fmt.Sprint(i)}
			if i%2 == 0 {
				m.ArtifactType = "application/x.even"
			} else {
				m.Config.MediaType = "application/x.odd" // then the configuration says the type
			}
		})
		got := a.putManifest("r/a", digest.FromBytes(raw).String(), raw).want(t, http.StatusCreated, "")
		if got.Header.Get("OCI-Subject") != of.Digest.String() {
			t.Errorf("OCI-Subject %q", got.Header.Get("OCI-Subject"))
		}
		referrers = append(referrers, digest.FromBytes(raw))
	}
	a.putManifest("r/a", "1", subject).want(t, http.StatusCreated, "")
	index, _ := list("")
	if len(index.Manifests) != 4 {
		t.Fatalf("%d referrers", len(index.Manifests))
	}
	for _, d := range index.Manifests {
		i := slices.Index(referrers, d.Digest)
		want := []string{"application/x.even", "application/x.odd"}[i%2]
		if d.ArtifactType != want || d.MediaType != v1.MediaTypeImageManifest || d.Annotations["number"] != fmt.Sprint(i) || d.Size == 0 {
			t.Errorf("described as %+v", d)
		}
	}
	odd, resp := list("?artifactType=application/x.odd")
	if len(odd.Manifests) != 2 || resp.Header.Get("OCI-Filters-Applied") != "artifactType" {
		t.Errorf("filtered: %v %v", odd.Manifests, resp.Header)
	}
	var paged []v1.Descriptor
	for query := "?n=3"; query != ""; {
		page, resp := list(query)
		paged = append(paged, page.Manifests...)
		_, query, _ = strings.Cut(strings.TrimSuffix(resp.Header.Get("Link"), `>; rel="next"`), "?")
		if query != "" {
			query = "?" + query
		}
	}
	if len(paged) != 4 {
		t.Errorf("pages have %d", len(paged))
	}
	a.do("DELETE", "r/a/manifests/"+referrers[0].String(), nil).want(t, http.StatusAccepted, "")
	if index, _ := list(""); len(index.Manifests) != 3 {
		t.Errorf("after a deletion %d referrers", len(index.Manifests))
	}
}

func TestTagsComeInPages(t *testing.T) {
	a := newAPI(t, Config{})
	a.do("GET", "r/a/tags/list", nil).want(t, http.StatusNotFound, "NAME_UNKNOWN")
	raw := a.image("r/a", digest.SHA256, nil)
	want := []string{"V2", "a", "b", "c", "latest"}
	for _, tag := range want {
		a.putManifest("r/a", tag, raw).want(t, http.StatusCreated, "")
	}
	var got []string
	for at := "r/a/tags/list?n=2"; at != ""; {
		resp := a.do("GET", at, nil).want(t, http.StatusOK, "")
		var page struct {
			Name string
			Tags []string
		}
		must(t, json.Unmarshal(resp.body, &page))
		if page.Name != "r/a" || len(page.Tags) > 2 {
			t.Errorf("a page is %s", resp.body)
		}
		got = append(got, page.Tags...)
		at, _, _ = strings.Cut(strings.TrimPrefix(resp.Header.Get("Link"), "<"), ">")
	}
	if !slices.Equal(got, want) {
		t.Errorf("tags %v", got)
	}
	for query, body := range map[string]string{"n=0": `[]`, "last=zzz": `[]`, "last=b": `["c","latest"]`} {
		if resp := a.do("GET", "r/a/tags/list?"+query, nil).want(t, http.StatusOK, ""); !strings.Contains(string(resp.body), `"tags":`+body) {
			t.Errorf("%s: %s", query, resp.body)
		}
	}
	for _, n := range []string{"-1", "x"} {
		a.do("GET", "r/a/tags/list?n="+n, nil).want(t, http.StatusBadRequest, "PAGINATION_NUMBER_INVALID")
	}
}

func TestWhoPushedIsTold(t *testing.T) {
	var events []Event
	a := newAPI(t, Config{Pushed: func(e Event) { events = append(events, e) }})
	raw := a.image("r/a", digest.SHA256, nil)
	d := digest.FromBytes(raw)
	a.putManifest("r/a", "1", raw).want(t, http.StatusCreated, "")
	a.putManifest("r/a", d.String(), raw).want(t, http.StatusCreated, "")
	a.putManifest("r/a", "bad", []byte("{}")).want(t, http.StatusBadRequest, "MANIFEST_INVALID")
	want := []Event{{Repository: "r/a", Tag: "1", Digest: d, MediaType: v1.MediaTypeImageManifest}, {Repository: "r/a", Digest: d, MediaType: v1.MediaTypeImageManifest}}
	if !slices.Equal(events, want) {
		t.Errorf("told of %+v", events)
	}
}
