package dockerapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"

	"github.com/containerd/containerd/v2/core/content"
	contentproxy "github.com/containerd/containerd/v2/core/content/proxy"
	controlapi "github.com/moby/buildkit/api/services/control"
	"github.com/moby/buildkit/exporter/containerimage/exptypes"
	gatewayapi "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/session/grpchijack"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/net/http2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// A client of BuildKit opens two connections: on /session it answers for its files and
// credentials, on /grpc it speaks BuildKit's own protocol. Both go on to the build worker
// as they are, but for one call: an image that shall become one of this machine's is
// taken out of the worker's content when the build is done.

const (
	sessionHeader = "X-Docker-Expose-Session-"
	solveMethod   = "/moby.buildkit.v1.Control/Solve"
	bridgeMethod  = "/moby.buildkit.v1.frontend.LLBBridge/Solve" // a Dockerfile, within a build that the client leads
	maxMessage    = 64 << 20
)

// worker connects to the build worker.
func (s *Server) worker(ctx context.Context) (*grpc.ClientConn, error) {
	first, err := s.cfg.Builder.Dial(ctx) // starts it, and says why when that fails
	if err != nil {
		return nil, err
	}
	conn, err := grpc.NewClient("passthrough:///build-worker", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage), grpc.MaxCallSendMsgSize(maxMessage)),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			if c := first; c != nil {
				first = nil
				return c, nil
			}
			return s.cfg.Builder.Dial(ctx)
		}))
	if err != nil {
		return nil, errors.Join(err, first.Close())
	}
	return conn, nil
}

// serveSession joins a client's session with the worker.
func (s *Server) serveSession(w http.ResponseWriter, r *http.Request) error {
	protocol := r.Header.Get("Upgrade")
	if protocol == "" {
		return invalid("a session needs an upgraded connection")
	}
	meta := map[string][]string{}
	for name, values := range r.Header {
		if strings.HasPrefix(name, sessionHeader) {
			meta[name] = values
		}
	}
	if len(meta) == 0 {
		return invalid("a session needs the headers %s*", sessionHeader)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(r.Context()))
	defer cancel()
	worker, err := s.worker(ctx)
	if err != nil {
		return err
	}
	defer worker.Close()
	theirs, err := grpchijack.Dialer(controlapi.NewControlClient(worker))(ctx, protocol, meta)
	if err != nil {
		return fmt.Errorf("open a session with the build worker: %w", err)
	}
	defer theirs.Close()
	conn, err := hijack(w, r, "application/vnd.docker.raw-stream")
	if err != nil {
		return err
	}
	defer conn.Close()
	done := make(chan struct{}, 2)
	pipe := func(to io.Writer, from io.Reader) {
		_, _ = io.Copy(to, from) // either end may go at any time
		done <- struct{}{}
	}
	go pipe(theirs, conn)
	go pipe(conn, theirs)
	<-done
	return nil
}

// serveGRPC serves BuildKit's protocol on the connection of a request.
func (s *Server) serveGRPC(w http.ResponseWriter, r *http.Request) error {
	if !strings.EqualFold(r.Header.Get("Upgrade"), "h2c") {
		return invalid("protocol %q is not possible: only h2c", r.Header.Get("Upgrade"))
	}
	worker, err := s.worker(r.Context())
	if err != nil {
		return err
	}
	defer worker.Close()
	conn, err := hijack(w, r, "application/vnd.docker.raw-stream")
	if err != nil {
		return err
	}
	defer conn.Close()
	p := &buildProxy{server: s, worker: worker}
	gs := grpc.NewServer(grpc.ForceServerCodecV2(rawCodec{}), grpc.UnknownServiceHandler(p.handle),
		grpc.MaxRecvMsgSize(maxMessage), grpc.MaxSendMsgSize(maxMessage))
	defer gs.Stop()
	(&http2.Server{}).ServeConn(conn, &http2.ServeConnOpts{Handler: gs, BaseConfig: &http.Server{}})
	return nil
}

// frame is a message as it travels.
type frame struct{ data mem.BufferSlice }

// rawCodec leaves messages as they are.
type rawCodec struct{}

func (rawCodec) Marshal(v any) (mem.BufferSlice, error) {
	f, is := v.(*frame)
	if !is {
		return nil, fmt.Errorf("cannot send a %T", v)
	}
	return f.data, nil
}

func (rawCodec) Unmarshal(data mem.BufferSlice, v any) error {
	f, is := v.(*frame)
	if !is {
		return fmt.Errorf("cannot receive a %T", v)
	}
	data.Ref() // the caller gives its own up
	f.data = data
	return nil
}

func (rawCodec) Name() string { return "proto" }

func frameOf(m proto.Message) (*frame, error) {
	blob, err := proto.Marshal(m)
	return &frame{mem.BufferSlice{mem.SliceBuffer(blob)}}, err
}

// buildProxy passes calls on to the worker.
type buildProxy struct {
	server *Server
	worker *grpc.ClientConn
}

var bothWays = &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}

func (p *buildProxy) handle(_ any, up grpc.ServerStream) error {
	method, _ := grpc.MethodFromServerStream(up)
	md, _ := metadata.FromIncomingContext(up.Context())
	ctx, cancel := context.WithCancel(metadata.NewOutgoingContext(up.Context(), md.Copy()))
	defer cancel()
	down, err := p.worker.NewStream(ctx, bothWays, method, grpc.ForceCodecV2(rawCodec{}))
	if err != nil {
		return err
	}
	if method == solveMethod {
		return p.solve(ctx, up, down)
	}
	go func() {
		for {
			f := &frame{}
			if err := up.RecvMsg(f); err != nil {
				_ = down.CloseSend() // the answer says what became of it
				return
			}
			if method == bridgeMethod {
				f = p.withRegistry(f)
			}
			if down.SendMsg(f) != nil {
				return
			}
		}
	}()
	return answerCalls(up, down)
}

// answerCalls passes on what the worker answers.
func answerCalls(up grpc.ServerStream, down grpc.ClientStream) error {
	if header, err := down.Header(); err == nil {
		if err := up.SendHeader(header); err != nil {
			return err
		}
	}
	for {
		f := &frame{}
		if err := down.RecvMsg(f); err != nil {
			up.SetTrailer(down.Trailer())
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		if err := up.SendMsg(f); err != nil {
			return err
		}
	}
}

// solve has the worker build, and takes the image in.
func (p *buildProxy) solve(ctx context.Context, up grpc.ServerStream, down grpc.ClientStream) error {
	f := &frame{}
	if err := up.RecvMsg(f); err != nil {
		return err
	}
	var req controlapi.SolveRequest
	if err := proto.Unmarshal(f.data.Materialize(), &req); err != nil {
		return status.Errorf(codes.InvalidArgument, "solve: %v", err)
	}
	wanted := p.redirect(&req)
	f, err := frameOf(&req)
	if err != nil {
		return err
	}
	if err := errors.Join(down.SendMsg(f), down.CloseSend()); err != nil {
		return err
	}
	answer := &frame{}
	if err := down.RecvMsg(answer); err != nil {
		up.SetTrailer(down.Trailer())
		return err
	}
	if wanted.here {
		var resp controlapi.SolveResponse
		if err := proto.Unmarshal(answer.data.Materialize(), &resp); err != nil {
			return status.Errorf(codes.Internal, "solve: %v", err)
		}
		if err := p.take(ctx, resp.ExporterResponse[exptypes.ExporterImageDigestKey], wanted); err != nil {
			return status.Errorf(codes.Unknown, "take in the built image: %v", fullDisk(err))
		}
	}
	up.SetTrailer(down.Trailer())
	return up.SendMsg(answer)
}

// result is what shall become of a built image.
type result struct {
	names        []string
	here, pushed bool // it becomes one of this machine's; the worker sends it away
}

// redirect makes the worker keep an image for us that shall become one of this machine's:
// docker's own exporter "moby", and "image" without a push. An image that is pushed is left
// to the worker under its names; asked by "moby", it becomes one of this machine's, too.
func (p *buildProxy) redirect(req *controlapi.SolveRequest) (wanted result) {
	if req.ExporterDeprecated != "" && len(req.Exporters) == 0 {
		req.Exporters = []*controlapi.Exporter{{Type: req.ExporterDeprecated, Attrs: req.ExporterAttrsDeprecated}}
	}
	req.ExporterDeprecated, req.ExporterAttrsDeprecated = "", nil
	for _, e := range req.Exporters {
		push := e.Attrs["push"] == "true"
		if e.Type != "moby" && (e.Type != "image" || push) {
			continue
		}
		wanted.here, wanted.pushed = true, push
		for _, name := range strings.Split(e.Attrs["name"], ",") {
			if name != "" {
				wanted.names = append(wanted.names, name)
			}
		}
		attrs := map[string]string{"oci-mediatypes": "true"}
		for k, v := range e.Attrs {
			switch k {
			case "unpack", "store", "dangling-name-prefix":
			case "name", "push":
				if push {
					attrs[k] = v
				}
			default:
				attrs[k] = v
			}
		}
		e.Type, e.Attrs = "image", attrs
	}
	if req.Frontend != "" {
		req.FrontendAttrs = p.registryArg(req.FrontendAttrs)
	}
	return wanted
}

// registryArg is the build argument that every build gets: where the built-in registry is.
func (p *buildProxy) registryArg(attrs map[string]string) map[string]string {
	const name = "build-arg:GANTRY_REGISTRY"
	if _, given := attrs[name]; given || p.server.cfg.Registry == "" {
		return attrs
	}
	return merged(attrs, map[string]string{name: p.server.cfg.Registry})
}

func (p *buildProxy) withRegistry(f *frame) *frame {
	var req gatewayapi.SolveRequest
	if err := proto.Unmarshal(f.data.Materialize(), &req); err != nil || req.Frontend == "" {
		return f // the worker says what is wrong with it
	}
	req.FrontendOpt = p.registryArg(req.FrontendOpt)
	changed, err := frameOf(&req)
	if err != nil {
		return f
	}
	return changed
}

// take copies an image out of the worker's content.
func (p *buildProxy) take(ctx context.Context, target string, wanted result) error {
	d, err := digest.Parse(target)
	if err != nil {
		return fmt.Errorf("the worker names no image: %w", err)
	}
	ctx = metadata.NewOutgoingContext(ctx, nil)
	store := contentproxy.NewContentStore(p.worker)
	info, err := store.Info(ctx, d)
	if err != nil {
		return fmt.Errorf("find the image in the worker: %w", err)
	}
	desc := ocispec.Descriptor{Digest: d, Size: info.Size}
	blob, err := content.ReadBlob(ctx, store, desc)
	if err != nil {
		return fmt.Errorf("read the image from the worker: %w", err)
	}
	if desc.MediaType, err = mediaTypeOf(blob); err != nil {
		return err
	}
	platforms, err := platformsOf(blob)
	if err != nil {
		return err
	}
	if ours := "linux/" + goarch; len(platforms) > 1 || len(platforms) == 1 && platforms[0] != ours {
		if wanted.pushed {
			return nil // it is where it belongs
		}
		return fmt.Errorf("it is for %s, and images here are for %s: build for that alone, or send it away with --push or --output type=oci,dest=FILE", strings.Join(platforms, ", "), ours)
	}
	names := wanted.names
	if len(names) == 0 {
		names = []string{untagged + ":" + d.Encoded()[:32]}
	}
	img, err := p.server.cfg.Images.Take(ctx, desc, store, names[0])
	if err != nil {
		return err
	}
	for _, name := range names[1:] {
		if _, err := p.server.cfg.Images.Tag(ctx, img.Name, name); err != nil {
			return err
		}
	}
	return nil
}

// platformsOf are the platforms of the images in an index; none for a single image.
func platformsOf(blob []byte) (list []string, err error) {
	var index ocispec.Index
	if err := json.Unmarshal(blob, &index); err != nil {
		return nil, fmt.Errorf("read the built image's index: %w", err)
	}
	for _, m := range index.Manifests {
		if p := m.Platform; p != nil && p.OS != "unknown" { // what is said about an image has none
			list = append(list, p.OS+"/"+p.Architecture)
		}
	}
	return list, nil
}

// mediaTypeOf reads what a manifest says it is.
func mediaTypeOf(blob []byte) (string, error) {
	var m struct {
		MediaType string `json:"mediaType"`
	}
	if err := json.Unmarshal(blob, &m); err != nil {
		return "", fmt.Errorf("read the built image's manifest: %w", err)
	}
	if m.MediaType == "" {
		return ocispec.MediaTypeImageManifest, nil
	}
	return m.MediaType, nil
}
