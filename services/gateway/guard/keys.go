package guard

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
)

// Keys are API keys and the clients that they belong to.
type Keys struct {
	// Headers and Parameters are where a request may carry its key.
	Headers, Parameters []string
	// Forward lets backends see the key.
	Forward bool

	clients map[digest]*Identity
}

// maxCredential bounds API keys and tokens.
const maxCredential = 16 << 10

// Add makes key, or "sha256:" and the hexadecimal digest of it, the key of a
// client. field is the header that tells backends the client's name, or "".
func (k *Keys) Add(client, key, field string) error {
	sum := sha256.Sum256([]byte(key))
	if text, hashed := strings.CutPrefix(key, "sha256:"); hashed {
		raw, err := hex.DecodeString(text)
		if err != nil || len(raw) != len(sum) {
			return fmt.Errorf("the key of client %q begins with sha256: and is no such digest: write 64 hexadecimal digits after it", client)
		}
		sum = digest(raw)
	} else if key == "" {
		return fmt.Errorf("the key of client %q is empty", client)
	}
	if k.clients == nil {
		k.clients = map[digest]*Identity{}
	}
	if other := k.clients[sum]; other != nil {
		return fmt.Errorf("clients %q and %q have the same key: only the first of them is told by it", other.Client, client)
	}
	id := &Identity{Method: "apiKey", Client: client}
	if field != "" {
		id.Header = appendField(nil, field, client)
	}
	k.clients[sum] = id
	return nil
}

// Len is the number of clients.
func (k *Keys) Len() int { return len(k.clients) }

// find compares digests, whose bytes a client cannot choose one by one.
func (k *Keys) find(key string) *Identity {
	if len(key) > maxCredential {
		return nil
	}
	return k.clients[sum256(key)]
}

// presented returns the key of a request, and how many there are.
func (k *Keys) presented(f Fields) (key string, count int) {
	for _, name := range k.Headers {
		if v, n := f.Field(name); n > 0 {
			key, count = v, count+n
		}
	}
	for _, name := range k.Parameters {
		if v, n := f.Parameter(name); n > 0 {
			key, count = v, count+n
		}
	}
	return key, count
}

func (k *Keys) places() string {
	var places []string
	for _, h := range k.Headers {
		places = append(places, "header "+h)
	}
	for _, p := range k.Parameters {
		places = append(places, "query parameter "+p)
	}
	return strings.Join(places, " or ")
}

// sum256 is the digest of a text, on the stack if it is short.
func sum256(s string) digest {
	var buf [512]byte
	return sha256.Sum256(append(buf[:0], s...))
}
