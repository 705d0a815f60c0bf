// Package compress compresses responses on their way to clients (RFC 9110, section
// 8.4): zstd, br or gzip, whichever the client accepts and the policy prefers.
//
// It guarantees: a response is changed only if its type and size are among those
// that pay, nobody has encoded it already, and it holds nothing private unless the
// policy says so (see guard.Compress); caches can tell the variants apart (Vary, weak
// ETags); what is flushed reaches the client. Imported by the gateway's data plane only.
package compress

import (
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"github.com/gantryhq/gantry/services/gateway/guard"
)

// encoder is what the three libraries have in common.
type encoder interface {
	io.WriteCloser
	Flush() error
	Reset(io.Writer)
}

// Encoders need memory that is worth keeping. Their levels are those at which servers
// usually compress what they do not keep.
var encoders = map[string]*sync.Pool{
	"gzip": {New: func() any { w, _ := gzip.NewWriterLevel(nil, 5); return w }}, // a level that exists
	"br":   {New: func() any { return brotli.NewWriterLevel(nil, 4) }},
	"zstd": {New: func() any {
		w, _ := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(256<<10), zstd.WithEncoderLevel(zstd.SpeedDefault))
		return w // the options are valid
	}},
}

// Writer compresses what is written to it. Close it at the end.
type Writer struct {
	http.ResponseWriter
	policy   *guard.Compress
	accepted string // the coding that the client gets, or ""
	isHead   bool

	decided bool
	encoder encoder // or nil: as it is
	held    []byte  // until MinSize bytes are there
	status  int
}

// New returns a Writer for the response to r. private says that the answer may hold
// what only this client may see.
func New(w http.ResponseWriter, r *http.Request, policy *guard.Compress, private bool) *Writer {
	c := &Writer{ResponseWriter: w, policy: policy, isHead: r.Method == http.MethodHead}
	if !private || policy.Private {
		c.accepted = negotiate(r.Header.Values("Accept-Encoding"), policy.Algorithms)
	}
	return c
}

// negotiate returns the first of the offered codings that the client weighs highest.
func negotiate(accept []string, offered []string) (best string) {
	weights := map[string]float64{}
	for _, line := range accept {
		for part := range strings.SplitSeq(line, ",") {
			name, parameters, _ := strings.Cut(strings.TrimSpace(part), ";")
			weight := 1.0
			if q, ok := strings.CutPrefix(strings.ReplaceAll(parameters, " ", ""), "q="); ok {
				weight, _ = strconv.ParseFloat(q, 64) // what is no number is refused
			}
			weights[strings.ToLower(strings.TrimSpace(name))] = weight
		}
	}
	most := 0.0
	for _, name := range offered {
		weight, named := weights[name]
		if !named {
			weight = weights["*"]
		}
		if weight > most {
			best, most = name, weight
		}
	}
	return best
}

// Unwrap lets http.ResponseController reach hijacking.
func (c *Writer) Unwrap() http.ResponseWriter { return c.ResponseWriter }

// WriteHeader decides, unless the size is not known yet.
func (c *Writer) WriteHeader(status int) {
	if status < 200 || c.status != 0 {
		c.ResponseWriter.WriteHeader(status)
		return
	}
	c.status = status
	h := c.Header()
	if !c.eligible(h) {
		c.pass()
		return
	}
	h.Add("Vary", "Accept-Encoding")
	length, err := strconv.ParseInt(h.Get("Content-Length"), 10, 64)
	if c.accepted == "" || c.isHead || err == nil && length < c.policy.MinSize {
		c.pass()
		return
	}
	if err == nil {
		c.begin()
	}
}

// eligible tells whether a response may be compressed for anybody.
func (c *Writer) eligible(h http.Header) bool {
	if c.status == http.StatusNoContent || c.status == http.StatusNotModified || c.status == http.StatusPartialContent || c.status == http.StatusSwitchingProtocols {
		return false
	}
	if h.Get("Content-Encoding") != "" || h.Get("Content-Range") != "" || strings.Contains(strings.ToLower(h.Get("Cache-Control")), "no-transform") {
		return false
	}
	if len(h["Set-Cookie"]) > 0 && !c.policy.Private {
		return false
	}
	kind, _, _ := strings.Cut(h.Get("Content-Type"), ";")
	kind = strings.ToLower(strings.TrimSpace(kind))
	return slices.ContainsFunc(c.policy.Types, func(t string) bool {
		prefix, every := strings.CutSuffix(t, "*")
		return t == kind || every && strings.HasPrefix(kind, prefix)
	})
}

// pass sends the response as it is.
func (c *Writer) pass() {
	c.decided = true
	c.ResponseWriter.WriteHeader(c.status)
}

// begin sends the head of a compressed response.
func (c *Writer) begin() {
	c.decided = true
	h := c.Header()
	h.Del("Content-Length")
	h.Del("Accept-Ranges") // of the body that is not sent
	h.Set("Content-Encoding", c.accepted)
	if tag := h.Get("ETag"); tag != "" && !strings.HasPrefix(tag, "W/") {
		h.Set("ETag", "W/"+tag)
	}
	c.ResponseWriter.WriteHeader(c.status)
	c.encoder = encoders[c.accepted].Get().(encoder)
	c.encoder.Reset(c.ResponseWriter)
}

// Write holds the first bytes until it is clear whether there are enough of them.
func (c *Writer) Write(p []byte) (int, error) {
	if c.status == 0 {
		c.WriteHeader(http.StatusOK)
	}
	if !c.decided {
		if int64(len(c.held)+len(p)) < c.policy.MinSize {
			c.held = append(c.held, p...)
			return len(p), nil
		}
		c.begin()
		if err := c.release(); err != nil {
			return 0, err
		}
	}
	if c.encoder != nil {
		return c.encoder.Write(p)
	}
	return c.ResponseWriter.Write(p)
}

// release writes what was held.
func (c *Writer) release() error {
	held := c.held
	c.held = nil
	if len(held) == 0 {
		return nil
	}
	var to io.Writer = c.ResponseWriter
	if c.encoder != nil {
		to = c.encoder
	}
	_, err := to.Write(held)
	return err
}

// FlushError sends everything that was written. A response that is flushed before it
// has MinSize bytes is a stream, of which more will come.
func (c *Writer) FlushError() error {
	if c.status != 0 && !c.decided {
		c.begin()
		if err := c.release(); err != nil {
			return err
		}
	}
	if c.encoder != nil {
		if err := c.encoder.Flush(); err != nil {
			return err
		}
	}
	return http.NewResponseController(c.ResponseWriter).Flush()
}

// Close ends a response that is complete.
func (c *Writer) Close() error {
	if c.status != 0 && !c.decided {
		c.pass()
		if err := c.release(); err != nil {
			return err
		}
	}
	if c.encoder == nil {
		return nil
	}
	err := c.encoder.Close()
	c.encoder.Reset(nil)
	encoders[c.accepted].Put(c.encoder)
	c.encoder = nil
	return err
}
