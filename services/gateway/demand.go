package gateway

import (
	"encoding/json"
	"net/http"
	"time"

	"github.com/gantryhq/gantry/internal/demand"
	"github.com/gantryhq/gantry/services/gateway/route"
	"github.com/gantryhq/gantry/services/gateway/upstream"
)

const (
	// demandPeriod is how often a stream of the demand tells of changes.
	demandPeriod = 25 * time.Millisecond
	// demandRest is after how long without a change it sleeps until something rises.
	demandRest = 3 * time.Second
)

// demandOf is the present demand, by Service port.
func demandOf(s *upstream.Pools) map[route.ServicePort]upstream.Demand {
	all := map[route.ServicePort]upstream.Demand{}
	for _, d := range s.Demand() {
		all[d.Service] = d
	}
	return all
}

// changesOf reports how the demand differs.
func changesOf(before, now map[route.ServicePort]upstream.Demand) demand.Report {
	report := demand.Report{Services: []demand.Service{}}
	for service, d := range now {
		if old, ok := before[service]; !ok || old != d {
			report.Services = append(report.Services, demand.Service{
				Namespace: service.Namespace, Service: service.Name, Port: service.Port,
				Requests: d.Requests, InFlight: d.InFlight, Waiting: d.Waiting, Endpoints: d.Endpoints,
			})
		}
	}
	for service := range before {
		if _, ok := now[service]; !ok {
			report.Services = append(report.Services, demand.Service{
				Namespace: service.Namespace, Service: service.Name, Port: service.Port, Gone: true})
		}
	}
	return report
}

// streamDemand answers as package demand says: changes at most every demandPeriod, but requests that
// begin to wait at once.
func streamDemand(s *upstream.Pools) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/jsonl")
		out := json.NewEncoder(w)
		flush := http.NewResponseController(w)
		timer := time.NewTimer(demandPeriod)
		defer timer.Stop()
		var last map[route.ServicePort]upstream.Demand
		var sent, changed time.Time
		for {
			rises := s.DemandRises()
			now := time.Now()
			if now.Sub(changed) > demandRest {
				s.DemandSleeps() // before looking: what comes from now on is told
			}
			present := demandOf(s)
			report := changesOf(last, present)
			if len(report.Services) > 0 {
				changed = now
			}
			if len(report.Services) > 0 || now.Sub(sent) >= demand.Heartbeat {
				if out.Encode(report) != nil || flush.Flush() != nil {
					return
				}
				last, sent = present, now
			}
			if now.Sub(changed) > demandRest {
				timer.Reset(demand.Heartbeat)
			} else {
				timer.Reset(demandPeriod)
			}
			select {
			case <-r.Context().Done():
				return
			case <-rises:
			case <-timer.C:
			}
		}
	}
}
