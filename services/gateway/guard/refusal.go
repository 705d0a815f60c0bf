package guard

import (
	"encoding/json"
	"net/http"
)

// Refusal is an answer of the gateway's own, a problem document (RFC 9457).
type Refusal struct {
	Status int
	// Kind ends the document's type, which begins with [ProblemType].
	Kind   string
	Detail string
	// Policy that demanded it, as Kind/namespace/name.
	Policy string
	// Fields for the answer's head, in lines that end with CRLF.
	Fields string
}

// ProblemType is how the types of problem documents begin.
const ProblemType = "https://gantry.dev/problems/"

// Body is the problem document.
func (r *Refusal) Body() []byte {
	body, _ := json.Marshal(struct { // cannot fail: strings and an integer
		Type   string `json:"type"`
		Title  string `json:"title"`
		Status int    `json:"status"`
		Detail string `json:"detail"`
		Policy string `json:"policy,omitempty"`
	}{ProblemType + r.Kind, http.StatusText(r.Status), r.Status, r.Detail, r.Policy})
	return body
}

// Busy is the answer when what a decision needs takes too long.
func Busy() *Refusal {
	return &Refusal{
		Status: http.StatusServiceUnavailable, Kind: "busy", Fields: "Retry-After: 1\r\n",
		Detail: "whether this request is allowed could not be found out in time",
	}
}

func broken(policy string) *Refusal {
	return &Refusal{
		Status: http.StatusServiceUnavailable, Kind: "policy-broken", Policy: policy,
		Detail: "a policy that protects this cannot be applied, so nothing is let through; the policy's status says why",
	}
}
