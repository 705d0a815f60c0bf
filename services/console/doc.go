// Package console serves the web console: its pages, the login, and a way from the browser to the API.
//
// The pages (folder web, built into dist by `make generate`) are one static program that talks to
// the Kubernetes API and to what lies under the API's address beside it: /prometheus/,
// /alertmanager/, /loki/, /timeline/, /audit/, /images/. This package forwards those requests with the token of the
// person who logged in, so the API knows them and RBAC decides; the console has no rights of its own.
//
// Guarantees: no token is in a URL, in the browser's storage, or in a log. A session needs two
// secrets that reach the server with each request and are not kept there: a cookie, which scripts
// cannot read, and a proof in a header, which other origins cannot send. The token lies in memory
// encrypted with a key made of both. What the API answers cannot run as a page: subresources in
// which workloads answer by themselves (proxy) are refused, and everything else is sandboxed.
//
// All it gets is the address of an API, so it runs on any cluster. Only cmd/gantry imports it.
package console
