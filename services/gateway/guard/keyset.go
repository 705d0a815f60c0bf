package guard

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// Times of a key set that is read from an address.
const (
	fetchTimeout = 10 * time.Second
	// A token with an unknown key has the keys read again, but not more often.
	refreshAtMost = 10 * time.Second
	retryFirst    = time.Second
	retryLast     = time.Minute
	waitForKeys   = 3 * time.Second
)

// maxKeySet bounds the keys of an issuer.
const maxKeySet = 64

// DiscoveryPath is where providers publish where their keys are (OpenID Connect
// Discovery 1.0): a Fetch of such an address follows jwks_uri.
const DiscoveryPath = "/.well-known/openid-configuration"

// KeySet are the public keys of an issuer of tokens: given once, or read from an
// address and read again as they are replaced.
type KeySet struct {
	// URL is where the keys are read from, or "".
	URL     string
	Refresh time.Duration

	snapshot atomic.Pointer[keys]
	last     atomic.Int64 // when the keys were last asked for, in Unix nanoseconds

	mu      sync.Mutex
	arrived chan struct{} // guarded by mu: closed by the next attempt to read
	wanted  chan struct{}
	err     error // guarded by mu: of the last attempt
}

// keys are immutable. Identities remember those that vouched for them.
type keys struct {
	text []byte
	set  []*jose.JSONWebKey
}

// NewKeySet parses a JSON Web Key Set (RFC 7517).
func NewKeySet(text []byte) (*KeySet, error) {
	k, err := parseKeys(text)
	if err != nil {
		return nil, err
	}
	s := &KeySet{}
	s.snapshot.Store(k)
	return s, nil
}

// NewRemoteKeySet has no keys until a Keeper has read them.
func NewRemoteKeySet(url string, refresh time.Duration) *KeySet {
	return &KeySet{URL: url, Refresh: refresh, arrived: make(chan struct{}), wanted: make(chan struct{}, 1)}
}

// parseKeys keeps the keys that can verify signatures.
func parseKeys(text []byte) (*keys, error) {
	var raw struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(text, &raw); err != nil {
		return nil, fmt.Errorf("parse JSON Web Key Set: %w", err)
	}
	k := &keys{text: text}
	for _, r := range raw.Keys {
		key := &jose.JSONWebKey{}
		// Kinds of keys that are not known here do not spoil the others.
		if json.Unmarshal(r, key) != nil || !key.IsPublic() || (key.Use != "" && key.Use != "sig") {
			continue
		}
		if _, shared := key.Key.([]byte); !shared {
			k.set = append(k.set, key)
		}
	}
	if len(k.set) == 0 || len(k.set) > maxKeySet {
		return nil, fmt.Errorf("the JSON Web Key Set has %d public keys for signatures: it needs 1 to %d", len(k.set), maxKeySet)
	}
	return k, nil
}

// find returns the keys that a token with this key ID may be signed with.
func (k *keys) find(id, algorithm string) (found []*jose.JSONWebKey) {
	for _, key := range k.set {
		if (id == "" || key.KeyID == id) && (key.Algorithm == "" || key.Algorithm == algorithm) {
			if found = append(found, key); len(found) == 4 {
				break // so that a token without ID costs no more than a few attempts
			}
		}
	}
	return found
}

func (k *keys) vouches(id *Identity) bool { return id.keys == k }

// current returns nil before keys have been read.
func (s *KeySet) current() *keys { return s.snapshot.Load() }

// wait asks for the keys and returns how to wait for them, or nil if there is
// nothing to wait for: they are given, or were read a moment ago.
func (s *KeySet) wait(now time.Time, again bool) Wait {
	if s.URL == "" {
		return nil
	}
	last := s.last.Load()
	if again && now.UnixNano()-last < int64(refreshAtMost) || !again && last != 0 && s.failed() != nil {
		return nil
	}
	return func(ctx context.Context) {
		s.mu.Lock()
		arrived := s.arrived
		s.mu.Unlock()
		if again || s.current() == nil {
			select {
			case s.wanted <- struct{}{}:
			default:
			}
		}
		ctx, cancel := context.WithTimeout(ctx, waitForKeys)
		defer cancel()
		select {
		case <-arrived:
		case <-ctx.Done():
		}
	}
}

func (s *KeySet) failed() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// follow reads the keys until ctx ends.
func (s *KeySet) follow(ctx context.Context, fetch Fetch, now func() time.Time, changed func(error)) {
	retry := retryFirst
	for {
		err := s.read(ctx, fetch, now)
		if ctx.Err() != nil {
			return
		}
		changed(err)
		pause := s.Refresh
		if err != nil {
			pause, retry = min(retry, s.Refresh), min(2*retry, retryLast)
		} else {
			retry = retryFirst
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-s.wanted:
		case <-ctx.Done():
		}
		timer.Stop()
		if ctx.Err() != nil {
			return
		}
	}
}

// read replaces the keys if they differ. Keys that cannot be read stay.
func (s *KeySet) read(ctx context.Context, fetch Fetch, now func() time.Time) error {
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	text, err := fetch(ctx, s.URL)
	var k *keys
	if err == nil {
		k, err = parseKeys(text)
	}
	if before := s.current(); err == nil && (before == nil || !bytes.Equal(before.text, text)) {
		s.snapshot.Store(k)
	}
	s.last.Store(now().UnixNano())
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = err
	close(s.arrived)
	s.arrived = make(chan struct{})
	return err
}

// Problem says why the keys cannot be read, or is nil.
func (s *KeySet) Problem() error {
	if s.URL == "" {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil && s.current() == nil {
		return errors.New("the keys have not been read yet")
	}
	return s.err
}
