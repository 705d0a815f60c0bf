package guard

import (
	"fmt"
	"net/http"
)

// MaxBody bounds the bodies of requests.
type MaxBody struct {
	Policy string
	Bytes  int64
}

func (m *MaxBody) refusal() *Refusal {
	return &Refusal{
		Status: http.StatusRequestEntityTooLarge, Kind: "body-too-large", Policy: m.Policy,
		Detail: fmt.Sprintf("the body of a request may have %d bytes here", m.Bytes),
	}
}

// Refusal is the answer to a body that turned out too long while it was read.
func (m *MaxBody) Refusal() *Refusal { return m.refusal() }
