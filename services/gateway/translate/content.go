package translate

import (
	"fmt"
	"slices"

	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/gantryhq/gantry/api/v1alpha1"
	"github.com/gantryhq/gantry/services/gateway/guard"
)

// bytesOr reads an amount of bytes.
func bytesOr(q *resource.Quantity, otherwise int64) (int64, error) {
	if q == nil {
		return otherwise, nil
	}
	if q.Sign() < 0 {
		return 0, fmt.Errorf("%s is negative", q)
	}
	return q.Value(), nil
}

// compileContent compiles what a policy says about bodies, headers and logs.
func (p *trafficParts) compileContent(spec *v1alpha1.TrafficPolicySpec) {
	if s := spec.RequestShape; s != nil {
		p.shape.value, p.shape.err = compileShape(p.policy, s)
	}
	if s := spec.SecurityHeaders; s != nil {
		p.harden.value = compileHarden(p.policy, s)
	}
	if s := spec.Compression; s != nil {
		p.compress.value, p.compress.err = compileCompression(s)
	}
	if s := spec.Cache; s != nil {
		n, err := bytesOr(s.MaxObject, 1<<20)
		if err != nil {
			p.cache.err = fmt.Errorf("cache.maxObject: %w", err)
		} else {
			p.cache.value = &guard.Cache{MaxObject: n}
		}
	}
	if s := spec.AccessLog; s != nil {
		p.accessLog.value = &guard.AccessLog{
			Sampled: uint32(deref(s.Percent, 100)) * 100, Errors: deref(s.Errors, true),
			OmitClient: slices.Contains(s.Omit, "client"), OmitPath: slices.Contains(s.Omit, "path"), OmitAgent: slices.Contains(s.Omit, "agent"),
		}
	}
	if s := spec.AuditLog; s != nil {
		p.audit.value = &guard.Audit{
			All: s.Record == "All", Writes: s.Record == "Writes" || s.Record == "",
			Refusals: s.Record == "Refusals" || s.Record == "Writes" || s.Record == "",
		}
	}
}

func compileShape(policy string, spec *v1alpha1.RequestShape) (*guard.Shape, error) {
	s := &guard.Shape{Policy: policy, Parameters: spec.RequiredQuery}
	for _, h := range spec.RequiredHeaders {
		s.Headers = append(s.Headers, string(h))
	}
	var err error
	if s.MaxBody, err = bytesOr(spec.MaxBody, 1<<20); err != nil {
		return nil, fmt.Errorf("requestShape.maxBody: %w", err)
	}
	if s.MaxBody > maxSchemaBody {
		return nil, fmt.Errorf("requestShape.maxBody: %d bytes are more than can be compared with a schema: at most %d", s.MaxBody, maxSchemaBody)
	}
	if spec.BodySchema != nil {
		if err := s.SetSchema(spec.BodySchema.Raw); err != nil {
			return nil, fmt.Errorf("requestShape.bodySchema: %w", err)
		}
	}
	return s, nil
}

// maxSchemaBody is how much of a body is held in memory to be compared.
const maxSchemaBody = 16 << 20

// serverHeaders say which software answers.
var serverHeaders = []string{"Server", "X-Powered-By", "X-AspNet-Version", "X-AspNetMvc-Version", "X-Generator", "X-Runtime", "Via"}

func compileHarden(policy string, spec *v1alpha1.SecurityHeaders) *guard.Harden {
	var set, secure []guard.ClaimField
	var remove []string
	add := func(name, value string) { set = append(set, guard.ClaimField{Name: name, Claim: value}) }
	switch spec.FrameOptions {
	case "Deny":
		add("X-Frame-Options", "DENY")
	case "SameOrigin", "":
		add("X-Frame-Options", "SAMEORIGIN")
	}
	if r := spec.ReferrerPolicy; r == "" {
		add("Referrer-Policy", "strict-origin-when-cross-origin")
	} else if r != "Backend" {
		add("Referrer-Policy", r)
	}
	if deref(spec.ContentTypeOptions, true) {
		add("X-Content-Type-Options", "nosniff")
	}
	if h := spec.HSTS; h != nil {
		value := fmt.Sprintf("max-age=%d", deref(h.MaxAge, 31536000))
		if h.IncludeSubdomains {
			value += "; includeSubDomains"
		}
		if h.Preload {
			value += "; preload"
		}
		secure = append(secure, guard.ClaimField{Name: "Strict-Transport-Security", Claim: value})
	}
	if deref(spec.RemoveServerHeaders, true) {
		remove = serverHeaders
	}
	return guard.NewHarden(policy, set, secure, remove)
}

// compressible are the types that are text, more or less.
var compressible = []string{
	"text/html", "text/css", "text/plain", "text/xml", "text/csv", "text/markdown", "text/javascript", "application/javascript", "application/json", "application/manifest+json",
	"application/ld+json", "application/xml", "application/xhtml+xml", "application/rss+xml", "application/atom+xml", "application/wasm", "image/svg+xml", "font/ttf", "font/otf",
}

func compileCompression(spec *v1alpha1.Compression) (*guard.Compress, error) {
	c := &guard.Compress{Algorithms: spec.Algorithms, Types: spec.ContentTypes, Private: spec.Private}
	if len(c.Algorithms) == 0 {
		c.Algorithms = []string{"zstd", "br", "gzip"}
	}
	if len(c.Types) == 0 {
		c.Types = compressible
	}
	var err error
	if c.MinSize, err = bytesOr(spec.MinSize, 1024); err == nil && c.MinSize > 1<<20 {
		err = fmt.Errorf("%d bytes would be held in memory for each response: at most 1Mi", c.MinSize)
	}
	if err != nil {
		return nil, fmt.Errorf("compression.minSize: %w", err)
	}
	return c, nil
}
