package guard

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

// Algorithms are the signatures that tokens may have. All of them are asymmetric:
// with a shared secret, a public key could be taken for it (algorithm confusion).
var Algorithms = []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}

// maxTokens is how many verified tokens of an issuer are remembered.
const maxTokens = 8192

// maxRemembered bounds a token that is: a longer one is verified each time.
const maxRemembered = 4 << 10

// maxClaimText bounds a claim that is told to backends in a header.
const maxClaimText = 4096

// Tokens are JSON Web Tokens (RFC 7519) of one issuer.
type Tokens struct {
	Name   string
	Issuer string
	// Audiences of which a token must name one; empty is any.
	Audiences []string
	// Algorithms are some of the package's; empty is all.
	Algorithms []string
	// Skew is how far clocks may differ.
	Skew time.Duration
	// ClaimFields are headers that tell backends claims.
	ClaimFields []ClaimField
	// ClientClaim names the client, GroupsClaim its groups.
	ClientClaim, GroupsClaim string
	// ClientField is the header that tells backends the client, or "".
	ClientField string
	// Forward lets backends see the token.
	Forward bool

	Keys *KeySet

	verified *recent[*Identity]
}

// ClaimField is a header with the value of a claim. Dots lead into claims that
// are objects.
type ClaimField struct{ Claim, Name string }

var (
	errNoKeys      = errors.New("no keys")
	errOtherIssuer = errors.New("the token is another issuer's")
	errSlow        = errors.New("the token's signature takes long to verify")
)

// Seal fills in defaults. Call it once before the first use.
func (t *Tokens) Seal() {
	if len(t.Algorithms) == 0 {
		t.Algorithms = Algorithms
	}
	if t.ClientClaim == "" {
		t.ClientClaim = "sub"
	}
	if t.GroupsClaim == "" {
		t.GroupsClaim = "groups"
	}
	t.verified = newRecent[*Identity](maxTokens)
}

// verify returns who a token stands for. Only a token whose signature, issuer,
// audience and times were found right is remembered, by its digest, for as long as
// the keys stay and it is not expired. Without mayWait, on an event loop, a signature
// that takes long to verify is not: the error is errSlow then.
func (t *Tokens) verify(token string, now time.Time, mayWait bool) (*Identity, Wait, error) {
	if len(token) > maxCredential {
		return nil, nil, errors.New("the token is too long")
	}
	keys := t.Keys.current()
	key := sum256(token)
	if id, ok := t.verified.get(key); ok && keys != nil && keys.vouches(id) {
		if now.After(id.Expires) {
			return nil, nil, errors.New("the token has expired")
		}
		return id, nil, nil
	}
	parsed, err := jwt.ParseSigned(strings.Clone(token), t.algorithms())
	if err != nil || len(parsed.Headers) != 1 {
		return nil, nil, errors.New("this is no JSON Web Token with a signature that is accepted here")
	}
	var unverified struct {
		Issuer string `json:"iss"`
	}
	if parsed.UnsafeClaimsWithoutVerification(&unverified) != nil || unverified.Issuer != t.Issuer {
		return nil, nil, errOtherIssuer
	}
	if keys == nil {
		return nil, t.Keys.wait(now, false), errNoKeys
	}
	header := parsed.Headers[0]
	found := keys.find(header.KeyID, header.Algorithm)
	if len(found) == 0 {
		if wait := t.Keys.wait(now, true); wait != nil {
			return nil, wait, nil // the issuer may have got new keys
		}
		return nil, nil, errors.New("the token's key is none of its issuer's")
	}
	if !mayWait && (len(found) > maxTried || slices.ContainsFunc(found, slow)) {
		return nil, nil, errSlow
	}
	claims := map[string]any{}
	if !slices.ContainsFunc(found, func(k *jose.JSONWebKey) bool { return parsed.Claims(k.Key, &claims) == nil }) {
		return nil, nil, errors.New("the token's signature is wrong")
	}
	id, err := t.identity(claims, now)
	if err != nil {
		return nil, nil, err
	}
	id.keys = keys
	if len(token) <= maxRemembered {
		t.verified.put(key, id)
	}
	return id, nil, nil
}

// maxTried is how many keys without a name are tried on an event loop.
const maxTried = 3

// slow says whether a signature by a key takes much longer to verify than what else is done for
// a request: BenchmarkVerify compares them. P-384 and P-521 take some ten and fifty times as long as P-256.
func slow(k *jose.JSONWebKey) bool {
	switch k := k.Key.(type) {
	case *rsa.PublicKey:
		return k.N.BitLen() > 4096
	case *ecdsa.PublicKey:
		return k.Curve != elliptic.P256()
	}
	return false
}

func (t *Tokens) algorithms() []jose.SignatureAlgorithm {
	list := make([]jose.SignatureAlgorithm, len(t.Algorithms))
	for i, a := range t.Algorithms {
		list[i] = jose.SignatureAlgorithm(a)
	}
	return list
}

// identity checks the claims of a token whose signature is right.
func (t *Tokens) identity(claims map[string]any, now time.Time) (*Identity, error) {
	if iss, _ := claims["iss"].(string); iss != t.Issuer {
		return nil, errOtherIssuer
	}
	expires, ok := claims["exp"].(float64)
	switch {
	case !ok || expires < 0 || expires > 1<<40:
		return nil, errors.New("the token does not say when it expires")
	case now.After(unix(expires).Add(t.Skew)):
		return nil, errors.New("the token has expired")
	}
	for _, name := range []string{"nbf", "iat"} {
		if from, ok := claims[name].(float64); ok && now.Add(t.Skew).Before(unix(from)) {
			return nil, errors.New("the token is not valid yet")
		}
	}
	if len(t.Audiences) > 0 && !slices.ContainsFunc(claimTexts(claims, "aud"), func(a string) bool { return slices.Contains(t.Audiences, a) }) {
		return nil, errors.New("the token is for another audience")
	}
	id := &Identity{Method: "jwt", Client: claimText(claims, t.ClientClaim), Groups: claimTexts(claims, t.GroupsClaim), Claims: claims, Expires: unix(expires).Add(t.Skew)}
	if t.ClientField != "" {
		id.Header = appendField(id.Header, t.ClientField, id.Client)
	}
	for _, f := range t.ClaimFields {
		if v := claimText(claims, f.Claim); v != "" && len(v) <= maxClaimText {
			id.Header = appendField(id.Header, f.Name, v)
		}
	}
	return id, nil
}

func unix(seconds float64) time.Time {
	return time.Unix(0, 0).Add(time.Duration(seconds * float64(time.Second)))
}

// claim follows a path with dots; a claim whose own name has dots comes first.
func claim(claims map[string]any, path string) any {
	for {
		if v, ok := claims[path]; ok {
			return v
		}
		first, rest, more := strings.Cut(path, ".")
		inner, ok := claims[first].(map[string]any)
		if !more || !ok {
			return nil
		}
		claims, path = inner, rest
	}
}

// claimTexts returns the strings of a claim that is one or a list of them.
func claimTexts(claims map[string]any, path string) []string {
	switch v := claim(claims, path).(type) {
	case string:
		return []string{v}
	case []any:
		var texts []string
		for _, e := range v {
			if s, ok := e.(string); ok {
				texts = append(texts, s)
			}
		}
		return texts
	}
	return nil
}

// claimText returns a claim as one line.
func claimText(claims map[string]any, path string) string {
	switch v := claim(claims, path).(type) {
	case nil, map[string]any:
		return ""
	case []any:
		return strings.Join(claimTexts(claims, path), ",")
	case float64:
		if v == float64(int64(v)) {
			return fmt.Sprint(int64(v))
		}
		return fmt.Sprint(v)
	default:
		return fmt.Sprint(v)
	}
}

// Fetch reads the JSON Web Key Set at an address.
type Fetch func(ctx context.Context, url string) ([]byte, error)
