package apiserver

import (
	"context"
	"sync"

	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/endpoints/request"
)

// decisions remembers what components may do. A decision holds as long as no role or binding
// changes: the next request after a change is decided anew.
type decisions struct {
	may   authorizer.Authorizer
	roles *roles

	mu       sync.Mutex              // guards following
	snapshot *rbacSnapshot           // the roles and bindings under which allowed was decided
	allowed  map[componentRight]bool // true, or not decided
}

// componentRight is a kind of request. The object's name is no part of it: only rights that hold
// for every name are remembered.
type componentRight struct {
	who         user.Info // a pointer: one for each in-process transport
	verb        string
	group       string
	resource    string
	subresource string
	namespace   string
}

// rememberedRights bounds the memory; namespaces come and go.
const rememberedRights = 4096

func newDecisions(may authorizer.Authorizer, r *roles) *decisions {
	return &decisions{may: may, roles: r}
}

// allow tells whether a request is allowed whatever the object's name. When it answers false
// the request may still be: that is for the authorizer to say.
func (d *decisions) allow(ctx context.Context, who user.Info, info *request.RequestInfo) bool {
	snapshot, err := d.roles.current()
	if err != nil {
		return false
	}
	right := componentRight{who, info.Verb, info.APIGroup, info.Resource, info.Subresource, info.Namespace}
	d.mu.Lock()
	if d.snapshot != snapshot || len(d.allowed) >= rememberedRights {
		d.snapshot, d.allowed = snapshot, map[componentRight]bool{}
	}
	known := d.allowed[right]
	d.mu.Unlock()
	if known {
		return true
	}
	decision, _, _ := d.may.Authorize(ctx, authorizer.AttributesRecord{
		User: who, ResourceRequest: true, Path: info.Path, Verb: info.Verb, APIGroup: info.APIGroup, APIVersion: info.APIVersion,
		Resource: info.Resource, Subresource: info.Subresource, Namespace: info.Namespace,
	})
	if decision != authorizer.DecisionAllow {
		return false
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.snapshot == snapshot { // a later one may have taken the right away
		d.allowed[right] = true
	}
	return true
}
