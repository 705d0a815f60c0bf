package shimd

import (
	"net"
	"time"

	"github.com/gantryhq/gantry/engine/shim/protocol"
)

// defaultForgetTimeout bounds a forget for which the client named no limit.
const defaultForgetTimeout = 10 * time.Second

// subscriberQueue is how many events a client may lag behind; one that lags
// further is cut off and gets everything again when it connects anew.
const subscriberQueue = 1024

func (s *Server) find(id string) (*container, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c, ok := s.containers[id]; ok {
		return c, nil
	}
	return nil, protocol.Errorf(protocol.CodeNotFound, "the shim knows no container %q", id)
}

// reserve enters a container that is about to be started.
func (s *Server) reserve(c *container) error {
	if !validID(c.id) {
		return protocol.Errorf(protocol.CodeInvalid, "container id %q: 1 to 64 of a-z, 0-9 and - are needed", c.id)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopping {
		return protocol.Errorf(protocol.CodeFailed, "the shim is stopping")
	}
	if _, ok := s.containers[c.id]; ok {
		return protocol.Errorf(protocol.CodeExists, "container %q exists", c.id)
	}
	s.containers[c.id] = c
	return nil
}

func (s *Server) drop(c *container) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.containers, c.id)
}

func (s *Server) list() []protocol.State {
	s.mu.Lock()
	defer s.mu.Unlock()
	states := make([]protocol.State, 0, len(s.containers))
	for _, c := range s.containers {
		states = append(states, c.snapshot())
	}
	return states
}

// forget lets go of a container once it has exited.
func (s *Server) forget(req *protocol.Request) error {
	c, err := s.find(req.ID)
	if err != nil {
		return err
	}
	timeout := req.Timeout
	if timeout <= 0 {
		timeout = defaultForgetTimeout
	}
	limit := time.After(timeout)
	for i, done := range []<-chan struct{}{c.settled, c.exited} {
		if i == 1 && req.Signal != 0 {
			if err := c.signal(req.Signal); err != nil {
				return err
			}
		}
		select {
		case <-done:
		case <-limit:
			return protocol.Errorf(protocol.CodeRunning, "forget container %q: it is still %s after %v", c.id, c.snapshot().Phase, timeout)
		}
		if _, err := s.find(req.ID); err != nil {
			return err // the start failed, or another client was faster
		}
	}
	s.drop(c)
	c.release()
	return nil
}

// events sends all containers that exited or were taken over, then every change
// as it happens.
func (s *Server) events(conn *net.UnixConn) error {
	changes := make(chan protocol.State, subscriberQueue)
	s.mu.Lock()
	s.subscribers[changes] = struct{}{}
	s.mu.Unlock()
	defer s.unsubscribe(changes)

	news := []protocol.State{}
	for _, state := range s.list() {
		if state.Phase == protocol.Exited || !state.AdoptedAt.IsZero() {
			news = append(news, state)
		}
	}
	if err := protocol.Write(conn, protocol.Reply{States: news}); err != nil {
		return nil
	}
	closed := watchClose(conn)
	for {
		select {
		case <-closed:
			return nil
		case state, ok := <-changes:
			if !ok || protocol.Write(conn, protocol.Reply{States: []protocol.State{state}}) != nil {
				return nil
			}
		}
	}
}

func (s *Server) publish(state protocol.State) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for changes := range s.subscribers {
		select {
		case changes <- state:
		default:
			delete(s.subscribers, changes)
			close(changes)
		}
	}
}

func (s *Server) unsubscribe(changes chan protocol.State) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.subscribers, changes)
}
