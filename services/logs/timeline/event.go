// Package timeline tells what has changed in the cluster: deployments with image and who, scaling, restarts
// with exit code, configuration, warnings, builds and alerts, in one list.
//
// A Recorder follows the API and writes each change once, also over restarts of the process, as a line of
// JSON into a log (label source="timeline"); Events reads them again. What happened while nobody looked is
// recorded as far as objects still tell it.
//
// Imported by services/logs.
package timeline

import (
	"encoding/json"
	"hash/fnv"
	"strings"
	"time"
)

// Event is one change. Its JSON is the API's.
type Event struct {
	Time time.Time `json:"time"`
	// Kind is deploy, rollback, scale, restart, config, warning, build or alert.
	Kind string `json:"kind"`
	// Severity is info, warning or error.
	Severity  string `json:"severity"`
	Namespace string `json:"namespace"`
	// Workload is the name of the Deployment, StatefulSet, DaemonSet, Job ... that it is about, if any.
	Workload string `json:"workload,omitempty"`
	// Object is what it happened to, as KIND/NAME in lower case, such as pod/web-1.
	Object  string `json:"object,omitempty"`
	Message string `json:"message"` // for people; one line
	// By is who did it: the field manager that the API has noted, such as kubectl-client-side-apply.
	By string `json:"by,omitempty"`
	// Details are what the message is made of, such as image, was, exitCode, reason, revision.
	Details map[string]string `json:"details,omitempty"`
	// End is when something that lasts, an alert, was over; nil while it goes on.
	End *time.Time `json:"end,omitempty"`
	// Key tells it from others of its kind, object and time.
	Key string `json:"key,omitempty"`

	pending *workload // of which it is not known yet what has changed
}

// id is the same for the same change, whoever notices it when.
func (e *Event) id() uint64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(strings.Join([]string{e.Kind, e.Namespace, e.Object, e.Key}, "\x00"))) // never fails
	return h.Sum64()
}

// maxMessage is how long messages may be: they come from anywhere.
const maxMessage = 1024

// line is the event as a line of a log.
func (e *Event) line() []byte {
	e.Message = strings.ToValidUTF8(strings.Join(strings.Fields(e.Message), " "), "\uFFFD")
	if len(e.Message) > maxMessage {
		e.Message = strings.ToValidUTF8(e.Message[:maxMessage], "") + "…"
	}
	text, err := json.Marshal(e)
	if err != nil {
		return nil // nothing in it can fail
	}
	return text
}
