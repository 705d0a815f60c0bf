package guard

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v6"
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

// Shape is what requests must look like.
type Shape struct {
	Policy string
	// Headers and Parameters that a request must have.
	Headers, Parameters []string
	// MaxBody bounds bodies that are compared with the schema.
	MaxBody int64

	schema *jsonschema.Schema // or nil
}

// HasSchema tells whether bodies are looked at.
func (s *Shape) HasSchema() bool { return s != nil && s.schema != nil }

// noReferences refuses to load other documents.
type noReferences struct{}

func (noReferences) Load(url string) (any, error) {
	return nil, fmt.Errorf("%s is another document: a schema may refer to itself only", url)
}

// SetSchema compiles a JSON Schema for bodies.
func (s *Shape) SetSchema(text []byte) (err error) {
	defer func() { // the library panics about some documents that are no schemas
		if r := recover(); r != nil {
			s.schema, err = nil, fmt.Errorf("compile JSON Schema: this is none: %v", r)
		}
	}()
	document, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		return fmt.Errorf("parse JSON Schema: %w", err)
	}
	compiler := jsonschema.NewCompiler()
	compiler.UseLoader(noReferences{})
	compiler.AssertFormat()
	if err := compiler.AddResource("schema.json", document); err != nil {
		return fmt.Errorf("compile JSON Schema: %w", err)
	}
	if s.schema, err = compiler.Compile("schema.json"); err != nil {
		return fmt.Errorf("compile JSON Schema: %w", err)
	}
	return nil
}

func (s *Shape) refuse(status int, detail string) *Refusal {
	return &Refusal{Status: status, Kind: "malformed", Policy: s.Policy, Detail: detail}
}

// head checks what of the shape needs no body.
func (s *Shape) head(q *Request) *Refusal {
	for _, name := range s.Headers {
		if _, n := q.Fields.Field(name); n == 0 {
			return s.refuse(http.StatusBadRequest, fmt.Sprintf("the header %s is missing", name))
		}
	}
	for _, name := range s.Parameters {
		if _, n := q.Fields.Parameter(name); n == 0 {
			return s.refuse(http.StatusBadRequest, fmt.Sprintf("the query parameter %s is missing", name))
		}
	}
	if s.schema == nil {
		return nil
	}
	if q.Length > s.MaxBody {
		return s.TooLong()
	}
	if kind, _ := q.Fields.Field("Content-Type"); q.Length != 0 && !isJSON(kind) {
		return s.refuse(http.StatusUnsupportedMediaType, "the body must be JSON, and Content-Type must say so")
	}
	return nil
}

func isJSON(contentType string) bool {
	kind, _, err := mime.ParseMediaType(contentType)
	return err == nil && (kind == "application/json" || strings.HasSuffix(kind, "+json"))
}

// TooLong is the answer to a body that is longer than MaxBody.
func (s *Shape) TooLong() *Refusal {
	return (&MaxBody{Policy: s.Policy, Bytes: s.MaxBody}).refusal()
}

// Body compares a body with the schema. It takes time in proportion to the body.
func (s *Shape) Body(body []byte) *Refusal {
	if encoded := json.Valid(body); !encoded {
		return s.refuse(http.StatusBadRequest, "the body is not valid JSON")
	}
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(body))
	if err != nil {
		return s.refuse(http.StatusBadRequest, "the body is not valid JSON")
	}
	var invalid *jsonschema.ValidationError
	if err := s.schema.Validate(value); errors.As(err, &invalid) {
		at, what := "", ""
		for _, unit := range invalid.BasicOutput().Errors {
			if unit.Error != nil {
				text, _ := json.Marshal(unit.Error) // a string
				at, what = unit.InstanceLocation, string(text)
			}
		}
		return s.refuse(http.StatusBadRequest, fmt.Sprintf("the body does not have the form that is expected: at %.100q: %.300s", at, what))
	} else if err != nil {
		return s.refuse(http.StatusBadRequest, "the body does not have the form that is expected")
	}
	return nil
}
