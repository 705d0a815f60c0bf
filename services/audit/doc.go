// Package audit answers who did what, when and with what result: it reads the latest lines of
// the audit logs that others write, for people who may ask.
//
// The logs are files with one JSON object on each line: the API server's, in the form of Kubernetes'
// log backend (audit.k8s.io/v1 Event), and the gateway's. This package writes nothing, knows nothing
// of who asks (the API's authorization of the path decides) and reads a bounded part of the files:
// it begins at the end and says when it stopped before the beginning. Only cmd/gantry imports it.
package audit
