package guard

import (
	"context"
	"crypto/sha1"
	"crypto/subtle"
	"encoding/base64"
	"fmt"
	"strings"
	"time"

	"golang.org/x/crypto/bcrypt"
)

// maxBasic bounds a name with its password. bcrypt itself looks at 72 bytes.
const maxBasic = 1024

// Passwords are checked that many at a time at most: bcrypt is slow on purpose, and
// whoever guesses passwords must not get all of the machine for it.
const maxHashing = 2

// How long, and how many, outcomes of checks are remembered.
const (
	rememberPassword = 5 * time.Minute
	maxPasswords     = 4096
)

// Basic are users with hashed passwords, as in the files of htpasswd.
type Basic struct {
	// Forward lets backends see the credential.
	Forward bool

	users   map[string]user
	checked *recent[checkedPassword]
	hashing chan struct{}
}

type user struct {
	hash string
	id   *Identity
}

type checkedPassword struct {
	id    *Identity // or nil: it is wrong
	until time.Time
}

// NewBasic reads lines of name:hash. field is the header that tells backends the
// name of the user, or "".
func NewBasic(file []byte, field string) (*Basic, error) {
	b := &Basic{users: map[string]user{}, checked: newRecent[checkedPassword](maxPasswords), hashing: make(chan struct{}, maxHashing)}
	for i, line := range strings.Split(string(file), "\n") {
		if line = strings.TrimSpace(line); line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		name, hash, ok := strings.Cut(line, ":")
		if !ok || name == "" {
			return nil, fmt.Errorf("line %d is not name:hash", i+1)
		}
		if !strings.HasPrefix(hash, "{SHA}") {
			if _, err := bcrypt.Cost([]byte(hash)); err != nil {
				return nil, fmt.Errorf("line %d: the hash of user %q is neither bcrypt nor {SHA}: write it with htpasswd -B", i+1, name)
			}
		}
		id := &Identity{Method: "basic", Client: name}
		if field != "" {
			id.Header = appendField(nil, field, name)
		}
		b.users[name] = user{hash, id}
	}
	if len(b.users) == 0 {
		return nil, fmt.Errorf("it has no line with name:hash")
	}
	return b, nil
}

// verify returns who has the password, or what to wait for.
func (b *Basic) verify(name, password string, now time.Time) (*Identity, Wait) {
	u, known := b.users[name]
	if known && strings.HasPrefix(u.hash, "{SHA}") {
		sum := sha1.Sum([]byte(password))
		if subtle.ConstantTimeCompare([]byte(base64.StdEncoding.EncodeToString(sum[:])), []byte(u.hash[5:])) == 1 {
			return u.id, nil
		}
		return nil, nil
	}
	key := sum256(name + "\x00" + password)
	if c, ok := b.checked.get(key); ok && now.Before(c.until) {
		return c.id, nil
	}
	return nil, func(ctx context.Context) { b.check(ctx, key, u, password, now) }
}

// check hashes the password, also of users who do not exist, so that the time it
// takes does not tell who does.
func (b *Basic) check(ctx context.Context, key digest, u user, password string, now time.Time) {
	select {
	case b.hashing <- struct{}{}:
		defer func() { <-b.hashing }()
	case <-ctx.Done():
		return
	}
	hash := u.hash
	if hash == "" {
		for _, other := range b.users {
			hash = other.hash
			break
		}
	}
	id := u.id
	if bcrypt.CompareHashAndPassword([]byte(hash), []byte(password)) != nil {
		id = nil
	}
	b.checked.put(key, checkedPassword{id, now.Add(rememberPassword)})
}
