package login

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/gantryhq/gantry/services/registry"
)

const (
	// passPrefix begins the tokens that this registry gives, and no others.
	passPrefix = "gantry."
	// passLifetime is how long one is good. Clients ask for the next by themselves; those
	// that were not told assume a minute.
	passLifetime = 5 * time.Minute
)

// passes are the tokens of clients that log in by token. One is the login itself, sealed
// with a key that only this process has: so nothing has to be kept, and an account that is
// deleted counts for the next request whatever it was logged in with.
type passes struct{ seal cipher.AEAD }

// pass is what is sealed.
type pass struct {
	User, Password string
	Until          time.Time
}

func newPasses() passes {
	var key [32]byte
	_, _ = rand.Read(key[:]) // never fails
	block, err := aes.NewCipher(key[:])
	if err != nil {
		panic(err) // of the key's length
	}
	seal, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		panic(err) // of the block's size
	}
	return passes{seal}
}

func (p passes) make(user, password string, until time.Time) (string, error) {
	text, err := json.Marshal(pass{user, password, until})
	if err != nil {
		return "", err
	}
	return passPrefix + base64.RawURLEncoding.EncodeToString(p.seal.Seal(nil, nil, text, nil)), nil
}

// open returns what a pass stands for.
func (p passes) open(token string) (user, password string, err error) {
	invalid := fmt.Errorf("%w: the token is none of this registry, or from before it was restarted", registry.ErrUnauthenticated)
	sealed, err := base64.RawURLEncoding.DecodeString(strings.TrimPrefix(token, passPrefix))
	if err != nil {
		return "", "", invalid
	}
	text, err := p.seal.Open(nil, nil, sealed, nil)
	if err != nil {
		return "", "", invalid
	}
	var in pass
	if err := json.Unmarshal(text, &in); err != nil {
		return "", "", fmt.Errorf("read a token of this registry: %w", err)
	}
	if !time.Now().Before(in.Until) {
		return "", "", fmt.Errorf("%w: the token expired", registry.ErrUnauthenticated)
	}
	return in.User, in.Password, nil
}

// Token implements [registry.Login].
func (l *Logins) Token(r *http.Request) (token string, lifetime time.Duration, err error) {
	user, password, ok := r.BasicAuth()
	if !ok || user+password == "" {
		return "", 0, errNotLoggedIn
	}
	if _, err := l.basic(r.Context(), user, password); err != nil {
		return "", 0, err
	}
	token, err = l.passes.make(user, password, time.Now().Add(passLifetime))
	return token, passLifetime, err
}
