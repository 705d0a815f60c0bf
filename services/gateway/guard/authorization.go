package guard

import (
	"net/http"
	"slices"
	"strings"
)

// Authorization says what clients may do. One rule must allow a request.
type Authorization struct {
	Policy string
	Rules  []Permission
}

// Permission allows a request if everything that it names holds; of each list, one
// entry.
type Permission struct {
	Clients, Groups, Methods []string
	Claims                   []ClaimValues
	// Expression is compiled CEL, or nil.
	Expression *Expression
}

// ClaimValues holds if the claim is one of the values, or a list or a text of
// several words that has one of them, as scopes are.
type ClaimValues struct {
	Claim  string
	Values []string
}

func (a *Authorization) allows(q *Request, who *Identity) bool {
	if who == nil {
		who = &Identity{}
	}
	return slices.ContainsFunc(a.Rules, func(p Permission) bool { return p.holds(q, who) })
}

func (p *Permission) holds(q *Request, who *Identity) bool {
	if len(p.Clients) > 0 && (who.Client == "" || !slices.Contains(p.Clients, who.Client)) {
		return false
	}
	if len(p.Groups) > 0 && !slices.ContainsFunc(who.Groups, func(g string) bool { return slices.Contains(p.Groups, g) }) {
		return false
	}
	if len(p.Methods) > 0 && !slices.Contains(p.Methods, q.Method) {
		return false
	}
	for _, c := range p.Claims {
		if !c.holds(who.Claims) {
			return false
		}
	}
	return p.Expression == nil || p.Expression.holds(q, who)
}

func (c *ClaimValues) holds(claims map[string]any) bool {
	if text, ok := claim(claims, c.Claim).(string); ok {
		if slices.Contains(c.Values, text) {
			return true
		}
		for word := range strings.FieldsSeq(text) {
			if slices.Contains(c.Values, word) {
				return true
			}
		}
		return false
	}
	if list := claimTexts(claims, c.Claim); list != nil {
		return slices.ContainsFunc(list, func(v string) bool { return slices.Contains(c.Values, v) })
	}
	return slices.Contains(c.Values, claimText(claims, c.Claim))
}

func (a *Authorization) refusal(who *Identity) *Refusal {
	detail := "this client may not do that here"
	if who == nil {
		detail = "clients that have not proved who they are may not do that here"
	}
	return &Refusal{Status: http.StatusForbidden, Kind: "forbidden", Policy: a.Policy, Detail: detail}
}
