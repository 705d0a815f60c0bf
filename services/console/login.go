package console

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	// cookieName has the prefix by which browsers accept it only for exactly this host, over TLS.
	cookieName = "__Host-gantry-console"
	// ProofHeader carries a session's second secret; at a login, any text. No other origin can
	// send it without asking first, which is refused.
	ProofHeader = "X-Gantry-Console"
	// proofProtocol carries it where a browser sends no headers: when it opens a WebSocket.
	proofProtocol = "gantry.console."

	askPatience  = 10 * time.Second
	maxLoginBody = 64 << 10
)

// Credentials are what somebody logs in with: a token, or the code of a link.
type Credentials struct {
	Token string `json:"token,omitempty"`
	Code  string `json:"code,omitempty"`
}

// Code is a login that is good once.
type Code struct {
	Code    string    `json:"code"`
	User    User      `json:"user"`
	Expires time.Time `json:"expires"`
}

// session is what the page learns of its session.
type session struct {
	User    User      `json:"user"`
	Expires time.Time `json:"expires"`
	Proof   string    `json:"proof,omitempty"`
}

// refusal is an answer that says what was wrong.
type refusal struct {
	status int
	text   string
}

func (r refusal) Error() string { return r.text }

// logIn opens a session for a token or a code.
func (c *Console) logIn(w http.ResponseWriter, r *http.Request) {
	var in Credentials
	l, err := login{}, fromPage(r)
	if err == nil {
		err = readCredentials(w, r, &in)
	}
	if err == nil {
		if in.Code != "" {
			if l, err = c.sessions.redeem(in.Code); err != nil {
				err = refusal{http.StatusUnauthorized, err.Error() + ": run `gantry console` again"}
			}
		} else {
			l, err = c.check(r.Context(), in.Token)
		}
	}
	if err != nil {
		c.refuseLogin(w, err)
		return
	}
	c.sessions.logins.WithLabelValues("accepted").Inc()
	cookie, proof, until := c.sessions.start(l)
	http.SetCookie(w, &http.Cookie{Name: cookieName, Value: cookie, Path: "/", Secure: true, HttpOnly: true, SameSite: http.SameSiteStrictMode, Expires: until})
	writeJSON(w, http.StatusOK, session{User: l.user, Expires: until, Proof: proof})
}

// newCode makes a code for a token, for `gantry console`.
func (c *Console) newCode(w http.ResponseWriter, r *http.Request) {
	var in Credentials
	l, err := login{}, fromPage(r)
	if err == nil {
		err = readCredentials(w, r, &in)
	}
	if err == nil {
		l, err = c.check(r.Context(), in.Token)
	}
	if err != nil {
		c.refuseLogin(w, err)
		return
	}
	code, until := c.sessions.newCode(l)
	writeJSON(w, http.StatusOK, Code{Code: code, User: l.user, Expires: until})
}

func (c *Console) refuseLogin(w http.ResponseWriter, err error) {
	c.sessions.logins.WithLabelValues("refused").Inc()
	refuse(w, err)
}

func (c *Console) whoAmI(w http.ResponseWriter, r *http.Request) {
	l, err := c.loggedIn(r)
	if err != nil {
		refuse(w, err)
		return
	}
	writeJSON(w, http.StatusOK, session{User: l.user, Expires: l.until})
}

func (c *Console) logOut(w http.ResponseWriter, r *http.Request) {
	if err := fromPage(r); err != nil {
		refuse(w, err)
		return
	}
	c.forget(w, r)
	w.WriteHeader(http.StatusNoContent)
}

func (c *Console) forget(w http.ResponseWriter, r *http.Request) {
	c.sessions.end(secrets(r))
	http.SetCookie(w, &http.Cookie{Name: cookieName, Path: "/", Secure: true, HttpOnly: true, SameSite: http.SameSiteStrictMode, MaxAge: -1})
}

// loggedIn returns the login of the session that a request belongs to.
func (c *Console) loggedIn(r *http.Request) (login, error) {
	if err := fromPage(r); err != nil {
		return login{}, err
	}
	l, err := c.sessions.find(secrets(r))
	if err != nil {
		return l, refusal{http.StatusUnauthorized, err.Error()}
	}
	return l, nil
}

// secrets are the two that a request of a session carries.
func secrets(r *http.Request) (cookie, proof string) {
	if k, err := r.Cookie(cookieName); err == nil {
		cookie = k.Value
	}
	if proof = r.Header.Get(ProofHeader); proof == "" {
		_, proof = webSocketProtocols(r)
	}
	return cookie, proof
}

// webSocketProtocols separates the proof from what a WebSocket is to speak.
func webSocketProtocols(r *http.Request) (others []string, proof string) {
	for _, p := range strings.Split(strings.Join(r.Header.Values("Sec-Websocket-Protocol"), ","), ",") {
		p = strings.TrimSpace(p)
		if is, ok := strings.CutPrefix(p, proofProtocol); ok {
			proof = is
		} else if p != "" {
			others = append(others, p)
		}
	}
	return others, proof
}

// fromPage refuses what a page of another origin could have made a browser send.
func fromPage(r *http.Request) error {
	if site := r.Header.Get("Sec-Fetch-Site"); site != "" && site != "same-origin" {
		return refusal{http.StatusForbidden, "this request comes from another site"}
	}
	if origin := r.Header.Get("Origin"); origin != "" {
		if u, err := url.Parse(origin); err != nil || !strings.EqualFold(u.Host, r.Host) {
			return refusal{http.StatusForbidden, "this request comes from another site"}
		}
	}
	if _, proof := webSocketProtocols(r); r.Header.Get(ProofHeader) == "" && proof == "" {
		return refusal{http.StatusForbidden, "the header " + ProofHeader + " is missing"}
	}
	return nil
}

func readCredentials(w http.ResponseWriter, r *http.Request, to *Credentials) error {
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxLoginBody)).Decode(to); err != nil {
		return refusal{http.StatusBadRequest, "the body is not {\"token\": ...} or {\"code\": ...}"}
	}
	to.Token, to.Code = strings.TrimSpace(to.Token), strings.TrimSpace(to.Code)
	return nil
}

// check asks the API whose token it is.
func (c *Console) check(ctx context.Context, token string) (login, error) {
	if token == "" || strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return login{}, refusal{http.StatusBadRequest, "this is no token: paste what `kubectl create token ACCOUNT` prints"}
	}
	body, err := json.Marshal(&authenticationv1.SelfSubjectReview{TypeMeta: metav1.TypeMeta{APIVersion: "authentication.k8s.io/v1", Kind: "SelfSubjectReview"}})
	if err != nil {
		return login{}, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.api.JoinPath("/apis/authentication.k8s.io/v1/selfsubjectreviews").String(), bytes.NewReader(body))
	if err != nil {
		return login{}, err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Authorization", "Bearer "+token)
	resp, err := c.client.Do(req)
	if err != nil {
		c.log.Warn("the console cannot reach the API", "err", err)
		return login{}, refusal{http.StatusBadGateway, "the API does not answer"}
	}
	defer resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusCreated, http.StatusOK:
	case http.StatusUnauthorized, http.StatusForbidden:
		return login{}, refusal{http.StatusUnauthorized, "the API does not accept this token: it may have expired, or be of another cluster"}
	default:
		return login{}, refusal{http.StatusBadGateway, fmt.Sprintf("the API answers %s", resp.Status)}
	}
	var review authenticationv1.SelfSubjectReview
	if err := json.NewDecoder(io.LimitReader(resp.Body, 1<<20)).Decode(&review); err != nil {
		return login{}, refusal{http.StatusBadGateway, "the API's answer is not understood"}
	}
	return login{user: User{review.Status.UserInfo.Username, review.Status.UserInfo.Groups}, token: token, until: expiry(token)}, nil
}

// expiry is when a JSON web token says that it ends; zero when it says nothing. The API has
// checked the token.
func expiry(token string) time.Time {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return time.Time{}
	}
	var claims struct {
		Exp int64 `json:"exp"`
	}
	text, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil || json.Unmarshal(text, &claims) != nil || claims.Exp == 0 {
		return time.Time{}
	}
	return time.Unix(claims.Exp, 0)
}

// refuse answers with what is wrong, as the Kubernetes API does.
func refuse(w http.ResponseWriter, err error) {
	var r refusal
	if !errors.As(err, &r) {
		r = refusal{http.StatusInternalServerError, err.Error()}
	}
	writeJSON(w, r.status, metav1.Status{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}, Status: metav1.StatusFailure,
		Code: int32(r.status), Reason: reasons[r.status], Message: r.text})
}

var reasons = map[int]metav1.StatusReason{
	http.StatusUnauthorized: metav1.StatusReasonUnauthorized, http.StatusForbidden: metav1.StatusReasonForbidden,
	http.StatusBadRequest: metav1.StatusReasonBadRequest, http.StatusNotFound: metav1.StatusReasonNotFound,
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v)
}
