package console

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

const (
	// longestSession ends a session whose token would be valid for longer.
	longestSession = 12 * time.Hour
	// codeLife is how long a link can be opened.
	codeLife = 2 * time.Minute
	// maxSessions and maxCodes bound the memory: the one that ends first makes room.
	maxSessions, maxCodes = 1000, 100
)

var errNoSession = errors.New("not logged in, or the session has ended")

// User is whom the API takes somebody for.
type User struct {
	Name   string   `json:"name"`
	Groups []string `json:"groups"`
}

// login is what a session or a code stands for.
type login struct {
	user  User
	token string
	until time.Time // when the token ends, or the session that it was found in; zero is not known
}

// sealed is a login whose token cannot be read without the secrets it was sealed with.
type sealed struct {
	login // without its token
	box   []byte
	end   time.Time // of the session or code
}

// sessions keeps logins under the hash of their secret. It is safe for concurrent use.
type sessions struct {
	now func() time.Time

	mu    sync.Mutex
	open  map[[32]byte]sealed // guarded by mu
	codes map[[32]byte]sealed // guarded by mu

	logins *prometheus.CounterVec
}

func newSessions(now func() time.Time) *sessions {
	return &sessions{now: now, open: map[[32]byte]sealed{}, codes: map[[32]byte]sealed{},
		logins: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "gantry_console_logins_total", Help: "Logins to the console, by result: accepted or refused."}, []string{"result"})}
}

func (s *sessions) metrics() []prometheus.Collector {
	return []prometheus.Collector{s.logins, prometheus.NewGaugeFunc(
		prometheus.GaugeOpts{Name: "gantry_console_sessions", Help: "People who are logged in to the console."},
		func() float64 {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.sweep()
			return float64(len(s.open))
		})}
}

// start opens a session and returns its two secrets: one for the cookie, one for the page.
func (s *sessions) start(l login) (cookie, proof string, until time.Time) {
	cookie, proof = rand.Text(), rand.Text()
	if end := s.now().Add(longestSession); l.until.IsZero() || l.until.After(end) {
		l.until = end
	}
	s.put(s.open, maxSessions, cookie, proof, l, l.until)
	return cookie, proof, l.until
}

// find returns the login of a session.
func (s *sessions) find(cookie, proof string) (login, error) {
	return s.get(s.open, cookie, proof, false)
}

// end forgets a session. Whoever has only one of its secrets ends nothing.
func (s *sessions) end(cookie, proof string) { _, _ = s.get(s.open, cookie, proof, true) }

// newCode returns what stands for a login once, for a short time.
func (s *sessions) newCode(l login) (code string, until time.Time) {
	code, until = rand.Text(), s.now().Add(codeLife)
	s.put(s.codes, maxCodes, code, "", l, until)
	return code, until
}

// redeem returns the login that a code stands for and forgets the code.
func (s *sessions) redeem(code string) (login, error) {
	l, err := s.get(s.codes, code, "", true)
	if err != nil {
		return l, errors.New("this link has been used, or is too old")
	}
	return l, nil
}

func (s *sessions) put(in map[[32]byte]sealed, most int, first, second string, l login, end time.Time) {
	id, aead := keyOf(first, second)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sweep()
	if len(in) >= most {
		var oldest [32]byte
		var at time.Time
		for id, have := range in {
			if at.IsZero() || have.end.Before(at) {
				oldest, at = id, have.end
			}
		}
		delete(in, oldest)
	}
	box := aead.Seal(nil, nil, []byte(l.token), id[:])
	l.token = ""
	in[id] = sealed{login: l, box: box, end: end}
}

func (s *sessions) get(in map[[32]byte]sealed, first, second string, remove bool) (login, error) {
	if first == "" {
		return login{}, errNoSession
	}
	id, aead := keyOf(first, second)
	s.mu.Lock()
	defer s.mu.Unlock()
	have, ok := in[id]
	if !ok || !s.now().Before(have.end) {
		return login{}, errNoSession
	}
	token, err := aead.Open(nil, nil, have.box, id[:])
	if err != nil {
		return login{}, errNoSession
	}
	if remove {
		delete(in, id)
	}
	l := have.login
	l.token = string(token)
	return l, nil
}

// sweep forgets what has ended; mu is held.
func (s *sessions) sweep() {
	now := s.now()
	for _, in := range []map[[32]byte]sealed{s.open, s.codes} {
		for id, have := range in {
			if !now.Before(have.end) {
				delete(in, id)
			}
		}
	}
}

// keyOf makes of two secrets the name under which something is kept and the key that opens it.
func keyOf(first, second string) (id [32]byte, aead cipher.AEAD) {
	secret := []byte(first + "\x00" + second)
	// Neither fails for keys and lengths such as these.
	key, _ := hkdf.Key(sha256.New, secret, nil, "gantry console: token", 32)
	name, _ := hkdf.Key(sha256.New, secret, nil, "gantry console: name", 32)
	block, _ := aes.NewCipher(key)
	aead, _ = cipher.NewGCMWithRandomNonce(block)
	return [32]byte(name), aead
}
