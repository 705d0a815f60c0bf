package scan

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/gantryhq/gantry/internal/atomicfile"
	"github.com/gantryhq/gantry/internal/attest"
	"github.com/gantryhq/gantry/services/scan/osvdb"
	"github.com/gantryhq/gantry/services/scan/report"
)

// ServiceConfig says what a service scans.
type ServiceConfig struct {
	Client    *rest.Config      // the identity [User]
	Registry  string            // host:port, as image names start
	Scheme    string            // of the registry; "" means http
	Transport http.RoundTripper // to the registry; nil means the network
	DataDir   string            // files are kept under DataDir/scan
	Version   string            // of this program

	// Signer returns the key that results are signed with. It is called once, when the
	// first result is there.
	Signer func(context.Context) (*attest.Signer, error)

	// Command starts the worker: a program that calls [Worker] with its standard input
	// and output and the flags --dir and --database.
	Command []string

	// Register is told of the metrics; nil is nobody.
	Register func(...prometheus.Collector)
	Log      *slog.Logger // nil means slog.Default()
}

const (
	workerIdle = 20 * time.Second // without a job, then the worker ends
	lookAgain  = time.Hour        // how often the registry is compared with what was scanned
	retryAfter = time.Minute

	maxAttempts = 2 // of an image at which the worker ends
	maxTrouble  = 8 // images that cannot be scanned now: then it is the registry
)

// Service scans what is pushed to a registry, and all of it when the database
// changes. It is driven by the state of the registry, not by what it is told:
// whatever it has missed it finds when it looks again.
type Service struct {
	cfg       ServiceConfig
	kube      kubernetes.Interface
	log       *slog.Logger
	dir       string
	registry  string
	scheme    string
	transport http.RoundTripper
	command   []string

	mu      sync.Mutex // guards what follows, up to wake
	results *Results   // made on first need, with the key
	queue   []string   // repository@digest, each once
	look    bool       // compare the registry with what was scanned
	wait    map[string][]chan struct{}
	wake    chan struct{}
	known   figures // what the metrics say

	// Of the loop alone:
	state    state
	status   *osvdb.Status // nil while there is no database
	child    *child
	attempts map[string]int
}

// state is what outlives the process: DataDir/scan/state.json.
type state struct {
	Database string          `json:"database"` // digest
	Scanned  map[string]bool `json:"scanned"`  // repository@digest with it
	// Found counts what was found in those of them that are images.
	Found map[string]report.Summary `json:"found"`
}

// NewService returns a service that does nothing before Run.
func NewService(cfg ServiceConfig) (*Service, error) {
	kube, err := kubernetes.NewForConfig(cfg.Client)
	if err != nil {
		return nil, fmt.Errorf("start scanning: %w", err)
	}
	s := &Service{
		cfg: cfg, kube: kube, log: cfg.Log, dir: filepath.Join(cfg.DataDir, "scan"), registry: cfg.Registry, scheme: cfg.Scheme,
		transport: cfg.Transport, command: cfg.Command, wake: make(chan struct{}, 1), wait: map[string][]chan struct{}{}, look: true, attempts: map[string]int{},
	}
	if cfg.Register != nil {
		cfg.Register(&exposition{s})
	}
	if s.log == nil {
		s.log = slog.Default()
	}
	if s.scheme == "" {
		s.scheme = "http"
	}
	if s.transport == nil {
		s.transport = http.DefaultTransport
	}
	return s, nil
}

// Enqueue says that an image was pushed. It never blocks.
func (s *Service) Enqueue(repository, digest string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if repository == osvdb.Repository {
		s.look = true
	} else if image := repository + "@" + digest; !slices.Contains(s.queue, image) {
		s.queue = append(s.queue, image)
	}
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// Scan waits until an image, by digest, was scanned, and returns the result. It is nil
// when there is none to be had: there is no database, or the image cannot be scanned.
// Run must be running.
func (s *Service) Scan(ctx context.Context, image name.Digest) (*report.Report, error) {
	done, key := make(chan struct{}), image.Context().RepositoryStr()+"@"+image.DigestStr()
	s.mu.Lock()
	s.wait[key] = append(s.wait[key], done)
	s.mu.Unlock()
	s.Enqueue(splitImage(key))
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-done:
	}
	results, err := s.keep(ctx)
	if err != nil {
		return nil, err
	}
	r, err := results.Get(ctx, image)
	if err != nil || r == nil {
		return nil, err
	}
	return r, nil
}

// answer tells who waits for an image; for all when it is "".
func (s *Service) answer(image string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for waited, who := range s.wait {
		if image == "" || waited == image {
			for _, done := range who {
				close(done)
			}
			delete(s.wait, waited)
		}
	}
}

// Run scans until ctx ends. Trouble with one image, or with the registry, is logged
// and tried again.
func (s *Service) Run(ctx context.Context) error {
	if err := s.load(); err != nil {
		return err
	}
	defer func() { s.stopChild() }()
	idle, again := time.NewTimer(workerIdle), time.NewTicker(lookAgain)
	retry := time.NewTimer(0)
	defer idle.Stop()
	defer again.Stop()
	defer retry.Stop()
	for {
		retry.Stop() // one at most, however often there is something new meanwhile
		if err := s.work(ctx); err != nil && ctx.Err() == nil {
			s.log.Warn("scanning waits", "err", err)
			retry.Reset(retryAfter)
		}
		idle.Reset(workerIdle)
		select {
		case <-ctx.Done():
			return nil
		case <-s.wake:
		case <-again.C:
			s.lookSoon()
		case <-retry.C:
			s.lookSoon()
		case <-idle.C:
			s.stopChild()
		}
	}
}

func (s *Service) lookSoon() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.look = true
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

func (s *Service) stopChild() {
	if s.child != nil {
		s.child.stop()
		s.child = nil
	}
}

// work does all there is to do now.
func (s *Service) work(ctx context.Context) error {
	s.mu.Lock()
	look := s.look
	s.look = false
	s.mu.Unlock()
	if look {
		if err := s.compare(ctx); err != nil {
			return err
		}
	}
	var later []string // what could not be scanned now, and keeps no other waiting
	var trouble error
	for ctx.Err() == nil && len(later) < maxTrouble {
		s.mu.Lock()
		if s.status == nil {
			s.queue = nil // without a database: found again when there is one
		}
		if len(s.queue) == 0 {
			s.queue = later
			s.mu.Unlock()
			if trouble == nil {
				s.answer("")
			}
			return trouble
		}
		image := s.queue[0]
		s.queue = s.queue[1:]
		s.mu.Unlock()
		err := s.one(ctx, image)
		var ended *workerError
		if errors.As(err, &ended) {
			// Perhaps because of the image, so it is not tried for ever, and keeps no other waiting.
			s.log.Warn("image cannot be scanned", "image", image, "err", err)
			if s.attempts[image]++; s.attempts[image] < maxAttempts {
				s.requeue(image)
				continue
			}
			err = nil
		}
		if err == nil {
			err = s.done(image)
		}
		if err != nil {
			later, trouble = append(later, image), fmt.Errorf("scan %s: %w", image, err)
		}
	}
	for _, image := range later {
		s.requeue(image)
	}
	return trouble
}

// requeue puts an image at the end of the queue without waking the loop.
func (s *Service) requeue(image string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.queue = append(s.queue, image)
}

func splitImage(image string) (repository, digest string) {
	repository, digest, _ = strings.Cut(image, "@")
	return repository, digest
}

func (s *Service) done(image string) error {
	delete(s.attempts, image)
	s.state.Scanned[image] = true
	s.answer(image)
	return s.save()
}

// compare queues what is in the registry and was not scanned with its database.
func (s *Service) compare(ctx context.Context) error {
	status, err := osvdb.Look(ctx, osvdb.Reference(s.registry), s.options(ctx)...)
	if errors.Is(err, osvdb.ErrNone) {
		s.status = nil
		s.publish()
		return nil
	}
	if err != nil {
		return err
	}
	s.status = status
	if s.state.Database != status.Digest {
		s.state = state{Database: status.Digest, Scanned: map[string]bool{}, Found: map[string]report.Summary{}}
	}
	there, err := s.images(ctx)
	if err != nil {
		return err
	}
	for image := range s.state.Scanned {
		if !there[image] {
			delete(s.state.Scanned, image)
			delete(s.state.Found, image)
		}
	}
	for image := range there {
		if !s.state.Scanned[image] {
			s.Enqueue(splitImage(image))
		}
	}
	return s.save()
}

// attached matches the tags of what is said about images, as clients make them where
// a registry has no referrers.
var attached = regexp.MustCompile(`^sha256-[0-9a-f]{64}`)

// images lists what the tags of the registry mean.
func (s *Service) images(ctx context.Context) (map[string]bool, error) {
	registry, err := name.NewRegistry(s.registry, s.nameOptions()...)
	if err != nil {
		return nil, err
	}
	repositories, err := remote.Catalog(ctx, registry, s.options(ctx)...)
	if err != nil {
		return nil, fmt.Errorf("list the registry: %w", err)
	}
	out := map[string]bool{}
	for _, r := range repositories {
		if r == osvdb.Repository {
			continue
		}
		repository := registry.Repo(r)
		tags, err := remote.List(repository, s.options(ctx)...)
		if err != nil {
			continue // deleted meanwhile
		}
		for _, tag := range tags {
			if attached.MatchString(tag) {
				continue
			}
			if d, err := remote.Head(repository.Tag(tag), s.options(ctx)...); err == nil {
				out[r+"@"+d.Digest.String()] = true
			}
		}
	}
	return out, nil
}

func (s *Service) nameOptions() []name.Option {
	if s.scheme == "http" {
		return []name.Option{name.Insecure}
	}
	return nil
}

func (s *Service) options(ctx context.Context) []remote.Option {
	return []remote.Option{remote.WithContext(ctx), remote.WithTransport(s.transport)}
}

// one scans one image, unless that was done already, and keeps the result.
func (s *Service) one(ctx context.Context, image string) error {
	pushed, err := name.NewDigest(s.registry+"/"+image, s.nameOptions()...)
	if err != nil {
		return err
	}
	subjects, err := s.subjects(ctx, pushed)
	if err != nil || len(subjects) == 0 {
		return err
	}
	results, err := s.keep(ctx)
	if err != nil {
		return err
	}
	before, err := results.Get(ctx, pushed)
	if err != nil {
		return err
	}
	if before != nil && before.Database.Digest == s.status.Digest {
		s.state.Found[image] = before.Summary()
		return nil
	}
	r, err := s.scanInChild(ctx, subjects[len(subjects)-1])
	var wrong *scanError
	if errors.As(err, &wrong) {
		s.log.Warn("image cannot be scanned", "image", image, "err", err)
		return nil
	}
	if err != nil {
		return err
	}
	r.Target = pushed.Context().Name()
	for _, subject := range subjects {
		err := results.Put(ctx, subject, r)
		if notKept(err) { // what is another registry's
			s.log.Info("image scanned, but its repository takes no result", "image", image, "found", r.Line())
			return nil
		}
		if err != nil {
			return err
		}
	}
	s.state.Found[image] = r.Summary()
	s.log.Info("image scanned", "image", image, "found", r.Line())
	return s.tell(ctx, subjects, before, r)
}

// subjects are what a result is about: the manifest that was pushed and, of one for
// several platforms, the image of this one. There are none for what is no image.
func (s *Service) subjects(ctx context.Context, pushed name.Digest) ([]name.Digest, error) {
	d, err := remote.Get(pushed, append(s.options(ctx), remote.WithPlatform(linux()))...)
	if gone(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	out := []name.Digest{pushed}
	if d.MediaType.IsIndex() {
		img, err := d.Image()
		if err != nil {
			return nil, nil // nothing for this machine, so nothing that runs here
		}
		digest, err := img.Digest()
		if err != nil {
			return nil, err
		}
		return append(out, pushed.Context().Digest(digest.String())), nil
	}
	var m struct {
		Config struct {
			MediaType types.MediaType `json:"mediaType"`
		} `json:"config"`
		ArtifactType string `json:"artifactType"`
	}
	if err := json.Unmarshal(d.Manifest, &m); err != nil {
		return nil, fmt.Errorf("read manifest: %w", err)
	}
	if m.ArtifactType != "" || m.Config.MediaType != types.OCIConfigJSON && m.Config.MediaType != types.DockerConfigJSON {
		return nil, nil
	}
	return out, nil
}

// keep returns where results are kept. Reading the key costs time, so it is read once.
func (s *Service) keep(ctx context.Context) (*Results, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.results == nil {
		signer, err := s.cfg.Signer(ctx)
		if err != nil {
			return nil, err
		}
		s.results = &Results{Signer: signer, Keys: []*attest.PublicKey{signer.Public}, Version: s.cfg.Version, Options: []remote.Option{remote.WithTransport(s.transport)}}
	}
	return s.results, nil
}

func (s *Service) scanInChild(ctx context.Context, image name.Digest) (*report.Report, error) {
	database := s.registry + "/" + osvdb.Repository + "@" + s.status.Digest
	if s.child != nil && s.child.database != database {
		s.stopChild()
	}
	if s.child == nil {
		var err error
		if s.child, err = s.startChild(database); err != nil {
			return nil, err
		}
	}
	r, err := s.child.scan(ctx, image.Name())
	if err == nil && (r.Digest != image.DigestStr() || r.Database == nil || r.Database.Digest != s.status.Digest) {
		err = errors.New("the scan worker answered about another image")
	}
	if err != nil && !errors.As(err, new(*scanError)) {
		s.stopChild()
	}
	return r, err
}

func (s *Service) statePath() string { return filepath.Join(s.dir, "state.json") }

// load reads the state. One that is lost or damaged costs looking at all images once.
func (s *Service) load() error {
	s.state = state{}
	text, err := os.ReadFile(s.statePath())
	if err == nil && json.Unmarshal(text, &s.state) != nil || s.state.Scanned == nil || s.state.Found == nil {
		s.state = state{Scanned: map[string]bool{}, Found: map[string]report.Summary{}}
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("read state of scanning: %w", err)
	}
	return nil
}

func (s *Service) save() error {
	s.publish()
	text, err := json.Marshal(s.state)
	if err == nil {
		err = errors.Join(os.MkdirAll(s.dir, 0o700), atomicfile.Write(s.statePath(), text, 0o600))
	}
	if err != nil {
		return fmt.Errorf("keep state of scanning: %w", err)
	}
	return nil
}
