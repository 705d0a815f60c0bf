package apiserver

import (
	"net/http"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/sets"
	utilwaitgroup "k8s.io/apimachinery/pkg/util/waitgroup"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	apifilters "k8s.io/apiserver/pkg/endpoints/filters"
	"k8s.io/apiserver/pkg/endpoints/filters/impersonation"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/server/filters"
)

// Requests from the network beyond these bounds are told to try again, as upstream does.
const maxReads, maxWrites = 400, 200

var (
	requestInfo = &request.RequestInfoFactory{
		APIPrefixes:          sets.NewString("api", "apis"),
		GrouplessAPIPrefixes: sets.NewString("api"),
	}
	longRunningVerbs = filters.BasicLongRunningRequestCheck(
		sets.NewString("watch", "proxy"), sets.NewString("attach", "exec", "proxy", "log", "portforward"))
)

// chain builds the filters around the API.
type chain struct {
	serializer runtime.NegotiatedSerializer
	authorizer authorizer.Authorizer
	// inFlight lets Serve wait for requests that are being answered.
	inFlight *utilwaitgroup.SafeWaitGroup
	audit    *auditLog // or nil
	// longRunning tells which requests may take any time.
	longRunning request.LongRunningRequestCheck
}

// network is the way of requests that came through a socket.
func (c *chain) network(h http.Handler, who authenticator.Request) http.Handler {
	h = apifilters.WithAuthorization(h, c.authorizer, c.serializer)
	h = filters.WithMaxInFlightLimit(h, maxReads, maxWrites, c.longRunning)
	h = impersonation.WithImpersonation(h, c.authorizer, c.serializer)
	if c.audit != nil {
		h = apifilters.WithAudit(h, c.audit.sink, c.audit.rules, c.longRunning)
	}
	h = apifilters.WithAuthentication(h, who, apifilters.Unauthorized(c.serializer), authenticator.Audiences{tokenIssuer}, nil)
	h = apifilters.WithWarningRecorder(h)
	h = filters.WithTimeoutForNonLongRunningRequests(h, c.longRunning)
	h = apifilters.WithRequestDeadline(h, nil, nil, c.longRunning, c.serializer, requestTimeout)
	h = filters.WithWaitGroup(h, c.longRunning, c.inFlight)
	return c.outer(h)
}

// inProcess is the way of requests of this process's components: the same identity, rights and
// handlers, without what protects a server from the network.
func (c *chain) inProcess(h http.Handler) http.Handler {
	h = apifilters.WithAuthorization(h, c.authorizer, c.serializer)
	h = impersonation.WithImpersonation(h, c.authorizer, c.serializer)
	if c.audit != nil {
		h = c.audit.inside(h, c.longRunning)
	}
	h = apifilters.WithAuthentication(h, inprocAuthenticator, apifilters.Unauthorized(c.serializer), nil, nil)
	h = apifilters.WithWarningRecorder(h)
	return c.outer(h)
}

func (c *chain) outer(h http.Handler) http.Handler {
	h = apifilters.WithCacheControl(h)
	h = apifilters.WithLatencyTrackers(h)
	h = apifilters.WithRequestInfo(h, requestInfo)
	h = apifilters.WithRequestReceivedTimestamp(h)
	h = filters.WithPanicRecovery(h, requestInfo)
	return apifilters.WithAuditInit(h)
}
