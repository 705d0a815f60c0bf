package dockerapi

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"time"

	"github.com/moby/moby/api/types/events"
)

// A container is paused by the control groups' freezer. Its pod goes on running as far as
// the Kubernetes API knows; that it is paused is in its record, together with the run that
// is, for the next run is not.

func (s *Server) servePause(w http.ResponseWriter, r *http.Request) error {
	c, err := s.find(r.PathValue("id"))
	if err != nil {
		return err
	}
	c.op.Lock()
	defer c.op.Unlock()
	switch st := s.current(c); {
	case st.paused():
		return conflict("container %s is already paused", s.recordOf(c).ID)
	case !st.running():
		return conflict("container %s is not running", s.recordOf(c).ID)
	}
	if err := s.pause(r.Context(), c); err != nil {
		return err
	}
	rec := s.recordOf(c)
	s.containerEvent(&rec, events.ActionPause, nil)
	return noContent(w)
}

func (s *Server) serveUnpause(w http.ResponseWriter, r *http.Request) error {
	c, err := s.find(r.PathValue("id"))
	if err != nil {
		return err
	}
	c.op.Lock()
	defer c.op.Unlock()
	if !s.current(c).paused() {
		return conflict("container %s is not paused", s.recordOf(c).ID)
	}
	if err := s.resume(r.Context(), c); err != nil {
		return err
	}
	rec := s.recordOf(c)
	s.containerEvent(&rec, events.ActionUnPause, nil)
	return noContent(w)
}

// pause stops a running container's processes. The caller holds c.op.
func (s *Server) pause(ctx context.Context, c *container) error {
	r, begun := s.recordOf(c), s.current(c).run.StartedAt
	// The record first: should we end in between, somebody can still resume it.
	if err := s.change(ctx, c, func(rec *record) { rec.Paused = begun }); err != nil {
		return err
	}
	if err := s.cfg.Machine.Pause(ctx, Namespace, r.Pod); err != nil {
		return errors.Join(fmt.Errorf("pause container %s: %w", r.Name, err), s.resume(context.WithoutCancel(ctx), c))
	}
	return nil
}

// resume has a paused container go on; one that has ended meanwhile is no error.
func (s *Server) resume(ctx context.Context, c *container) error {
	r := s.recordOf(c)
	if err := s.cfg.Machine.Resume(ctx, Namespace, r.Pod); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("unpause container %s: %w", r.Name, err)
	}
	return s.change(ctx, c, func(rec *record) { rec.Paused = time.Time{} })
}

// standing has a running container stand still while its files are read.
func (s *Server) standing(ctx context.Context, c *container, read func() error) error {
	if st := s.current(c); !st.running() || st.paused() {
		return read()
	}
	if err := s.pause(ctx, c); err != nil {
		return err
	}
	return errors.Join(read(), s.resume(context.WithoutCancel(ctx), c))
}
