package upstream

import (
	"cmp"
	"net/http"
	"time"

	"github.com/gantryhq/gantry/services/gateway/route"
)

// Outcome is what came of an attempt.
type Outcome int

// The outcomes of attempts.
const (
	Answered     Outcome = iota // with a status
	NotConnected                // nothing of the request was sent
	Broken                      // the connection ended before an answer
	TimedOut                    // no answer came in time
	outcomes     = iota
)

var outcomeNames = [outcomes]string{"status", "connect", "reset", "timeout"}

func (o Outcome) String() string { return outcomeNames[o] }

// The rows of failures that are counted: each is a part of the next.
const (
	connectRow = iota
	gatewayRow
	serverRow
	rows
)

var rowNames = [rows]string{"connect", "gateway-error", "server-error"}

const (
	baseEjection = time.Second
	maxEjection  = 30 * time.Second
	// connectFailures in a row eject by default: nothing listens there any more.
	connectFailures = 3
)

// Report tells what came of a request at an endpoint. status matters only for Answered.
func (p *Pool) Report(e *Endpoint, o Outcome, status int) {
	p.counts.add(o, status)
	if o == Answered && status < http.StatusInternalServerError && !e.troubled.Load() {
		return
	}
	p.report(e, o, status)
}

func (p *Pool) report(e *Endpoint, o Outcome, status int) {
	failed := [rows]bool{connectRow: o == NotConnected}
	failed[gatewayRow] = o != Answered || status >= http.StatusBadGateway && status <= http.StatusGatewayTimeout
	failed[serverRow] = failed[gatewayRow] || status >= http.StatusInternalServerError

	p.mu.Lock()
	defer p.mu.Unlock()
	rules := &p.state.Load().policy.Ejection
	limits := [rows]int32{cmp.Or(rules.ConnectFailures, connectFailures), rules.GatewayErrors, rules.ServerErrors}
	counts, worst := false, -1
	for i := range rows {
		switch {
		case !failed[i]:
			e.failures[i] = 0
		case limits[i] > 0:
			counts = true
			e.failures[i]++
			if worst < 0 && (e.failures[i] >= limits[i] || e.probation) {
				worst = i
			}
		}
	}
	if !counts {
		e.probation = false
	}
	e.troubled.Store(counts)
	if worst >= 0 && !e.ejected && !e.removed.Load() {
		p.eject(e, rules, worst)
	}
}

// eject takes an endpoint out for a while, unless too many are out already.
func (p *Pool) eject(e *Endpoint, rules *route.Ejection, why int) {
	all := p.state.Load().all
	out := 1
	for _, other := range all {
		if other.ejected {
			out++
		}
	}
	if out*100 > len(all)*int(cmp.Or(rules.MaxPercent, 50)) {
		return
	}
	base, longest := cmp.Or(rules.Base, baseEjection), cmp.Or(rules.Max, maxEjection)
	if !e.back.IsZero() && time.Since(e.back) > longest {
		e.ejections = 0 // it has done well for long
	}
	d := min(base<<min(e.ejections, 20), longest)
	if d <= 0 {
		d = longest
	}
	e.ejections++
	e.ejected, e.back = true, time.Now().Add(d)
	e.failures = [rows]int32{}
	p.counts.ejections[why].Add(1)
	p.config.Log.Info("endpoint ejected", "service", p.service, "endpoint", e.Host, "reason", rowNames[why], "for", d)
	p.refresh()
	time.AfterFunc(d, func() { p.readmit(e) })
}

// readmit lets an ejected endpoint have requests again. Its next failure ejects it
// for longer, its next good answer forgives it.
func (p *Pool) readmit(e *Endpoint) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !e.ejected || e.removed.Load() {
		return
	}
	e.ejected, e.probation = false, true
	e.troubled.Store(true) // so that the good answer is noted
	p.refresh()
	p.wake()
}
