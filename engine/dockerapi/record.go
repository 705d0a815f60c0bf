package dockerapi

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	types "github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/gantryhq/gantry/engine/image"
)

// What is kept in the API carries these labels.
const (
	labelKind = "gantry.dev/docker"    // "container", "network", "volume"
	labelID   = "gantry.dev/docker-id" // the first 32 digits of an id, on pods too
	dataKey   = "record"
)

// record is a container as it was asked for, and what is remembered of its last run. It
// is kept as JSON in a Secret.
type record struct {
	ID         string
	Name       string
	Created    time.Time
	Image      string // name:tag@digest that the pod gets
	ImageID    string
	Config     *types.Config
	HostConfig *types.HostConfig
	Networks   map[string]*network.EndpointSettings // by network name
	Mounts     []mountRecord
	Command    []string // entrypoint
	Args       []string
	UID, GID   *int64
	Groups     []int64

	Pod     string    // name of its pod, "" while there is none
	Stopped bool      // by a client: no restart policy brings it back
	Paused  time.Time // when the run began that is paused; zero while none is
	Last    lastRun
	Ports   network.PortMap // as published by the last start
}

// lastRun is what is left of a run when its pod is gone.
type lastRun struct {
	ExitCode   int
	StartedAt  time.Time
	FinishedAt time.Time
	OOMKilled  bool
	Error      string
	Restarts   int
}

// mountRecord is one mount of a container.
type mountRecord struct {
	Type        string // "bind", "volume", "tmpfs"
	Name        string // of a volume
	Source      string // on this machine
	Destination string
	ReadOnly    bool
	SizeBytes   int64
	Anonymous   bool // removed with the container
	NoCopy      bool // what the image has there stays out of a new volume
	Propagation string
	Options     []string // of a tmpfs

	labels map[string]string // of a volume that is to be made
}

// container is a record with its pod. All fields but the locks are guarded by Server.mu.
type container struct {
	op      sync.Mutex // held by what changes the container as a whole
	saving  sync.Mutex // held while the record is written
	rec     record
	pod     *v1.Pod
	health  string
	changed chan struct{} // closed and replaced whenever something changes
	gone    bool          // removed
	readers int           // who read its output to the end
}

func newContainer(r record) *container { return &container{rec: r, changed: make(chan struct{})} }

// wake tells those who wait that something has changed. Holds Server.mu.
func (c *container) wake() {
	close(c.changed)
	c.changed = make(chan struct{})
}

// randomID is an id as docker makes them.
func randomID() string {
	var b [32]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

func short(id string) string { return id[:min(12, len(id))] }

func secretName(id string) string { return "container-" + id[:32] }

// secretOf is how a record is kept.
func secretOf(r *record) (*v1.Secret, error) {
	blob, err := json.Marshal(r)
	if err != nil {
		return nil, fmt.Errorf("keep container %s: %w", r.Name, err)
	}
	return &v1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: secretName(r.ID), Namespace: Namespace,
			Labels: map[string]string{labelKind: "container", labelID: r.ID[:32]}},
		Type: "gantry.dev/docker-container",
		Data: map[string][]byte{dataKey: blob},
	}, nil
}

// save writes a container's record as it is now. One that was removed meanwhile stays so.
func (s *Server) save(ctx context.Context, c *container) error {
	c.saving.Lock() // so that the last write is the latest record
	defer c.saving.Unlock()
	r := s.recordOf(c)
	secret, err := secretOf(&r)
	if err != nil {
		return err
	}
	_, err = s.client.CoreV1().Secrets(Namespace).Update(ctx, secret, metav1.UpdateOptions{})
	if err = ignore(err, apierrors.IsNotFound); err != nil {
		return fmt.Errorf("keep container %s: %w", r.Name, err)
	}
	return nil
}

// change applies a change to a container's record and keeps it.
func (s *Server) change(ctx context.Context, c *container, apply func(*record)) error {
	s.mu.Lock()
	apply(&c.rec)
	c.wake()
	s.mu.Unlock()
	return s.save(ctx, c)
}

// recordOf returns a copy of a container's record.
func (s *Server) recordOf(c *container) record {
	s.mu.Lock()
	defer s.mu.Unlock()
	return c.rec
}

// load reads everything that is kept in the API.
func (s *Server) load(ctx context.Context) error {
	for _, dir := range []string{s.dir, s.volumeDir("")} {
		if err := os.MkdirAll(dir, 0o711); err != nil {
			return fmt.Errorf("make docker's directory: %w", err)
		}
	}
	id, err := instanceID(filepath.Join(s.dir, "id"))
	if err != nil {
		return err
	}
	s.id = id
	secrets, err := s.client.CoreV1().Secrets(Namespace).List(ctx, metav1.ListOptions{LabelSelector: labelKind + "=container"})
	if err != nil {
		return fmt.Errorf("read docker's containers: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.removeLeftovers(ctx, secrets.Items); err != nil {
		return err
	}
	for _, secret := range secrets.Items {
		var r record
		if err := json.Unmarshal(secret.Data[dataKey], &r); err != nil || len(r.ID) < 32 || r.Config == nil || r.HostConfig == nil {
			s.log.Warn("a docker container's record is damaged", "secret", secret.Name, "err", err)
			continue
		}
		s.containers[r.ID] = newContainer(r)
	}
	return s.loadObjects(ctx)
}

// removeLeftovers removes what a former process had begun to make or to remove: writable
// layers and logs without a record, and build contexts.
func (s *Server) removeLeftovers(ctx context.Context, secrets []v1.Secret) error {
	known := map[string]bool{}
	for _, secret := range secrets {
		known[secret.Name] = true
	}
	roots, err := s.cfg.Images.Roots(ctx)
	if err != nil {
		return err
	}
	prefix := image.KeptName(Namespace, "")
	for _, root := range roots {
		id, kept := strings.CutPrefix(root.ID, prefix)
		if kept && len(id) >= 32 && !known[secretName(id)] {
			err := s.cfg.Images.Drop(ctx, root.ID)
			if errors.Is(err, image.ErrInUse) { // its pod is on its way out
				go s.dropLater(context.WithoutCancel(ctx), id)
			} else if err != nil {
				s.log.Warn("remove the layer of a docker container that is no more", "container", id, "err", err)
			}
		}
	}
	dirs, _ := os.ReadDir(filepath.Join(s.dir, "containers")) // none before the first container
	for _, d := range dirs {
		if id := d.Name(); len(id) >= 32 && !known[secretName(id)] {
			if err := os.RemoveAll(s.containerDir(id)); err != nil {
				return err
			}
		}
	}
	return os.RemoveAll(filepath.Join(s.dir, "builds"))
}

func (s *Server) dropLater(ctx context.Context, id string) {
	if err := s.dropLayer(ctx, id); err != nil {
		s.log.Warn("remove the layer of a docker container that is no more", "container", id, "err", err)
	}
}

// loadObjects reads networks and volumes. Holds s.mu.
func (s *Server) loadObjects(ctx context.Context) error {
	maps, err := s.client.CoreV1().ConfigMaps(Namespace).List(ctx, metav1.ListOptions{LabelSelector: labelKind})
	if err != nil {
		return fmt.Errorf("read docker's networks and volumes: %w", err)
	}
	for _, m := range maps.Items {
		blob := []byte(m.Data[dataKey])
		var err error
		switch m.Labels[labelKind] {
		case "network":
			var n networkRecord
			if err = json.Unmarshal(blob, &n); err == nil {
				s.networks[n.ID] = &n
			}
		case "volume":
			var v volumeRecord
			if err = json.Unmarshal(blob, &v); err == nil {
				s.volumes[v.Name] = &v
			}
		}
		if err != nil {
			s.log.Warn("a record of docker is damaged", "configmap", m.Name, "err", err)
		}
	}
	return nil
}

// saveObject keeps a network or volume.
func (s *Server) saveObject(ctx context.Context, kind, name string, v any) error {
	blob, err := json.Marshal(v)
	if err != nil {
		return err
	}
	m := &v1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: Namespace, Labels: map[string]string{labelKind: kind}},
		Data:       map[string]string{dataKey: string(blob)},
	}
	maps := s.client.CoreV1().ConfigMaps(Namespace)
	_, err = maps.Update(ctx, m, metav1.UpdateOptions{})
	if apierrors.IsNotFound(err) {
		_, err = maps.Create(ctx, m, metav1.CreateOptions{})
	}
	return err
}

// instanceID is a UUID that stays the same for a data directory.
func instanceID(path string) (string, error) {
	if id, err := os.ReadFile(path); err == nil && len(id) == 36 {
		return string(id), nil
	}
	r := randomID()
	id := strings.Join([]string{r[:8], r[8:12], r[12:16], r[16:20], r[20:32]}, "-")
	if err := os.WriteFile(path, []byte(id), 0o600); err != nil {
		return "", fmt.Errorf("keep docker's instance id: %w", err)
	}
	return id, nil
}

// find returns the container that a client names: by id, by name, or by the beginning of
// an id that is unique.
func (s *Server) find(ref string) (*container, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.containers[ref]; c != nil {
		return c, nil
	}
	name := strings.TrimPrefix(ref, "/")
	var found []*container
	for id, c := range s.containers {
		if c.rec.Name == name {
			return c, nil
		}
		if ref != "" && strings.HasPrefix(id, ref) {
			found = append(found, c)
		}
	}
	switch len(found) {
	case 0:
		return nil, notFound("No such container: %s", ref)
	case 1:
		return found[0], nil
	}
	return nil, invalid("multiple IDs found with provided prefix: %s", ref)
}

// all returns the containers, newest first.
func (s *Server) all() []*container {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := make([]*container, 0, len(s.containers))
	for _, c := range s.containers {
		list = append(list, c)
	}
	slices.SortFunc(list, func(a, b *container) int { return b.rec.Created.Compare(a.rec.Created) })
	return list
}
