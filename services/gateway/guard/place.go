package guard

import "sync/atomic"

// Place is where rules of routes inherit the same policies. Rules of routes refer to it
// instead of to what is demanded there, so that a policy of a Gateway with thousands of
// routes changes without them.
type Place struct{ rules atomic.Pointer[Rules] }

// NewPlace returns a Place where r is demanded; nil is nothing.
func NewPlace(r *Rules) *Place {
	p := &Place{}
	p.Demand(r)
	return p
}

// Rules is what is demanded now; nil is nothing, and so is what a nil Place demands.
func (p *Place) Rules() *Rules {
	if p == nil {
		return nil
	}
	return p.rules.Load()
}

// Demand sets what is demanded from now on. A Keeper must have adopted it.
func (p *Place) Demand(r *Rules) { p.rules.Store(r) }
