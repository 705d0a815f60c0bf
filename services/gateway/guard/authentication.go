package guard

import (
	"context"
	"encoding/base64"
	"net/http"
	"strconv"
	"strings"
)

// Authentication is how clients prove who they are. Of several ways any one will
// do; a credential that is presented and wrong is refused, also where none is needed.
type Authentication struct {
	Policy string
	// Anonymous lets requests without any credential in.
	Anonymous bool
	Keys      *Keys
	Tokens    []*Tokens
	Basic     *Basic
	Login     *Login

	// ClientField is the header that tells backends who the client is, or "".
	ClientField string

	challenges string // WWW-Authenticate lines
}

// Wait waits for what a decision needs. Afterwards the request is decided again.
type Wait func(context.Context)

// identify finds out who sends the request.
func (a *Authentication) identify(q *Request, p *Pass) Verdict {
	if a.Keys != nil {
		switch key, count := a.Keys.presented(q.Fields); {
		case count > 1:
			return p.refuse(a.refusal("the request has more than one API key", "invalid_request"))
		case count == 1:
			if p.Identity = a.Keys.find(key); p.Identity == nil {
				return p.refuse(a.refusal("the API key is not known", "invalid_token"))
			}
			return Admitted
		}
	}
	value, count := q.Fields.Field("authorization")
	switch scheme, credential, _ := strings.Cut(value, " "); {
	case count > 1:
		return p.refuse(a.refusal("the request has more than one Authorization field", "invalid_request"))
	case count == 1 && len(a.Tokens) > 0 && strings.EqualFold(scheme, "Bearer"):
		return a.bearer(strings.TrimLeft(credential, " "), q, p)
	case count == 1 && a.Basic != nil && strings.EqualFold(scheme, "Basic"):
		return a.basic(strings.TrimLeft(credential, " "), q, p)
	}
	if a.Login != nil {
		if v, done := a.Login.identify(q, p); done {
			return v
		}
	}
	if a.Anonymous {
		return Admitted
	}
	return p.refuse(a.refusal("this needs a credential: "+a.ways(), ""))
}

// bearer tries the issuers of tokens in order. A token says who issued it, so at
// most one of them can accept it; which one refused it says why.
func (a *Authentication) bearer(token string, q *Request, p *Pass) Verdict {
	reason := "no issuer of tokens that is accepted here has issued this one"
	for _, t := range a.Tokens {
		id, wait, err := t.verify(token, q.Now, q.MayWait)
		switch {
		case wait != nil:
			p.Wait = wait
			return Elsewhere
		case err == errSlow:
			return Elsewhere
		case err == errNoKeys:
			return p.refuse(&Refusal{
				Status: http.StatusServiceUnavailable, Kind: "keys-missing", Policy: a.Policy, Fields: "Retry-After: 5\r\n",
				Detail: "the keys of the token's issuer could not be had, so it cannot be verified",
			})
		case err == nil:
			p.Identity = id
			return Admitted
		case err != errOtherIssuer:
			reason = err.Error()
		}
	}
	return p.refuse(a.refusal(reason, "invalid_token"))
}

func (a *Authentication) basic(credential string, q *Request, p *Pass) Verdict {
	text, err := base64.StdEncoding.DecodeString(credential)
	user, password, ok := strings.Cut(string(text), ":")
	if err != nil || !ok || len(text) > maxBasic {
		return p.refuse(a.refusal("the Basic credential is malformed", "invalid_request"))
	}
	id, wait := a.Basic.verify(user, password, q.Now)
	switch {
	case wait != nil:
		p.Wait = wait
		return Elsewhere
	case id == nil:
		return p.refuse(a.refusal("the user does not exist or the password is wrong", "invalid_token"))
	}
	p.Identity = id
	return Admitted
}

// refusal is an answer with status 401. code is one of RFC 6750, section 3.1, or "".
func (a *Authentication) refusal(detail, code string) *Refusal {
	fields := a.challenges
	if code != "" && len(a.Tokens) > 0 {
		fields = strings.Replace(fields, `Bearer realm="gantry"`, `Bearer realm="gantry", error=`+strconv.Quote(code), 1)
	}
	return &Refusal{Status: http.StatusUnauthorized, Kind: "unauthenticated", Policy: a.Policy, Detail: detail, Fields: fields}
}

// ways lists what is accepted.
func (a *Authentication) ways() string {
	var ways []string
	if a.Keys != nil {
		ways = append(ways, "an API key in "+a.Keys.places())
	}
	if len(a.Tokens) > 0 {
		ways = append(ways, "a token in Authorization: Bearer")
	}
	if a.Basic != nil {
		ways = append(ways, "a name and password in Authorization: Basic")
	}
	if a.Login != nil {
		ways = append(ways, "a login with a browser")
	}
	return strings.Join(ways, ", or ")
}

// Seal computes what is the same for all requests. Call it once before the first use.
func (a *Authentication) Seal() {
	if len(a.Tokens) > 0 {
		a.challenges += "WWW-Authenticate: Bearer realm=\"gantry\"\r\n"
	}
	if a.Basic != nil {
		a.challenges += "WWW-Authenticate: Basic realm=\"gantry\", charset=\"UTF-8\"\r\n"
	}
	if a.challenges == "" && a.Keys != nil { // RFC 9110, section 15.5.2 demands one
		a.challenges = "WWW-Authenticate: ApiKey realm=\"gantry\"\r\n"
	}
	if a.challenges == "" {
		a.challenges = "WWW-Authenticate: OpenIdConnect realm=\"gantry\"\r\n"
	}
}

// governed lists the fields of requests that backends never get from clients.
func (a *Authentication) governed() []string {
	var names []string
	if a.ClientField != "" {
		names = append(names, a.ClientField)
	}
	if a.Keys != nil && !a.Keys.Forward {
		names = append(names, a.Keys.Headers...)
	}
	for _, t := range a.Tokens {
		for _, h := range t.ClaimFields {
			names = append(names, h.Name)
		}
		if !t.Forward {
			names = append(names, "Authorization")
		}
	}
	if a.Basic != nil && !a.Basic.Forward {
		names = append(names, "Authorization")
	}
	if a.Login != nil {
		names = append(names, a.Login.governed()...)
	}
	return names
}
