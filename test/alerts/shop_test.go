package alerts

import "math"

// shop is a world of about forty pods in four namespaces, in health.
type shop struct {
	*world
	storefront, cart, catalogue, reports, worker, web *workload
	postgres, redis                                   *workload
	front, api                                        *route
	data                                              *claim
}

func newShop(seed uint64) *shop {
	w := newWorld(seed)
	s := &shop{world: w}
	deployment := func(namespace, name string, replicas, startup int, base, use float64) *workload {
		return w.add(&workload{kind: "Deployment", namespace: namespace, name: name, replicas: replicas, surge: true, startup: startup, grace: 3,
			cores: 1, memory: 256 * megabyte, base: base, use: use})
	}
	s.storefront = deployment("shop", "storefront", 4, 2, 0.35, 0.2)
	s.cart = deployment("shop", "cart", 3, 2, 0.3, 0.1)
	s.catalogue = deployment("shop", "catalogue", 3, 12, 0.5, 0.3)
	s.catalogue.scraped = true
	s.reports = deployment("shop", "reports", 1, 25, 0.55, 0.3) // slow to start, and collects garbage in great steps
	s.reports.behave = func(p *pod) {
		phase := float64((w.now - p.started) % 90)
		p.rss = p.w.memory * (0.35 + 0.4*phase/90) * w.jitter(0.01)
	}
	s.worker = deployment("shop", "worker", 2, 1, 0.3, 0.5)
	s.worker.surge = false
	s.worker.grace = 20
	s.web = deployment("blog", "web", 2, 2, 0.3, 0.05)
	deployment("team", "tool", 10, 3, 0.4, 0.02)
	deployment("team", "other", 8, 3, 0.4, 0.02)
	s.postgres = w.add(&workload{kind: "StatefulSet", namespace: "shop", name: "postgres", replicas: 1, startup: 4, grace: 4, memory: gigabyte, base: 0.6, use: 0.2})
	s.redis = w.add(&workload{kind: "StatefulSet", namespace: "shop", name: "redis", replicas: 3, startup: 2, grace: 2, memory: 128 * megabyte, base: 0.5, use: 0.05})
	s.front = &route{name: "HTTPRoute/shop/storefront", rate: 60, latency: 0.012, target: s.storefront}
	s.api = &route{name: "HTTPRoute/shop/cart", rate: 25, latency: 0.006, target: s.cart}
	w.routes = []*route{s.front, s.api, {name: "HTTPRoute/blog/web", rate: 2, latency: 0.03, target: s.web}}
	s.data = &claim{namespace: "shop", name: "data-postgres-0", size: 10 * gigabyte, used: 6 * gigabyte, grows: 0.05 * megabyte}
	w.claims = []*claim{s.data, {namespace: "shop", name: "data-redis-0", size: gigabyte, used: 0.3 * gigabyte}}
	w.builds = []buildRun{{"shop", "storefront", 11, "Failed", "TestFailed"}, {"shop", "storefront", 12, "Succeeded", ""}, {"blog", "web", 4, "Succeeded", ""}}
	w.certs = []*certificate{
		{namespace: "shop", secret: "shop-tls", from: w0(-40 * 86400), until: w0(50 * 86400)},
		{namespace: "blog", secret: "web-tls", from: w0(-86400), until: w0(5 * 86400)}, // of an authority whose last six days
		{file: "ca.crt", from: w0(-86400), until: w0(3650 * 86400)},
	}
	return s
}

// busyHour is what belongs to an hour in health: roll-outs, scaling, a sale, builds, restarts, a new application, and the
// small failures that come and go by themselves.
func (s *shop) busyHour() {
	w := s.world
	rollout := func(k *workload) func() {
		return func() { k.generation++ }
	}
	scale := func(k *workload, to int) func() { return func() { k.replicas = to } }
	for i, k := range []*workload{s.storefront, s.catalogue, s.worker, s.redis, s.web, s.cart, s.reports, s.postgres} {
		w.on(300+i*240, rollout(k))
	}
	// A sale: tenfold traffic within five seconds; replicas follow at once and go after it.
	w.burst = func(now int) float64 {
		switch {
		case now < 1500 || now > 1805:
			return 1
		case now < 1505:
			return 1 + 9*float64(now-1500)/5
		case now > 1800:
			return 1 + 9*float64(1805-now)/5
		}
		return 10
	}
	w.on(1502, scale(s.storefront, 20))
	w.on(1502, scale(s.cart, 12))
	for _, at := range []int{1500, 1501, 1502, 1503, 1504, 1505} { // queues while they start
		w.on(at, func() { s.front.slow, s.api.slow = 15, 8 })
	}
	w.on(1506, func() { s.front.slow, s.api.slow = 1.5, 1.5 })
	w.on(1900, scale(s.storefront, 4))
	w.on(1900, scale(s.cart, 3))
	w.on(1806, func() { s.front.slow, s.api.slow = 0, 0 })
	// One process dies and is started again; a pod is deleted by hand; a probe fails once.
	w.on(700, func() { w.end(s.cart.pods[0], "Error") })
	w.on(1250, func() { w.end(s.reports.pods[0], "Error") })
	w.on(2050, func() { s.catalogue.pods[1].deleted = w.now })
	w.on(2400, func() { s.storefront.pods[0].probeFails = true })
	w.on(2404, func() { s.storefront.pods[0].probeFails = false })
	w.on(3400, func() { s.postgres.pods[0].deleted = w.now })
	// An endpoint is lost with its requests, for two seconds; a backend stalls for three.
	w.on(2600, func() { s.front.errors = 0.3 })
	w.on(2602, func() { s.front.errors = 0 })
	w.on(2700, func() { s.api.slow = 60 })
	w.on(2703, func() { s.api.slow = 0 })
	// A new application, whose web server ends as long as its database is starting.
	w.on(1000, func() {
		base := &workload{kind: "StatefulSet", namespace: "fresh", name: "base", startup: 14, grace: 2, memory: gigabyte, base: 0.4, use: 0.1, generation: 1}
		app := &workload{kind: "Deployment", namespace: "fresh", name: "app", surge: true, startup: 1, grace: 2, cores: 1, memory: 256 * megabyte, base: 0.4, use: 0.1, generation: 1, usual: 2}
		app.behave = func(p *pod) {
			if len(base.pods) == 0 || !base.pods[0].ready {
				w.end(p, "Error")
			}
		}
		base.created, app.created, base.replicas, app.replicas = w.now, w.now, 1, 2
		w.workloads = append(w.workloads, base, app)
	})
	// CronJobs; one try in twelve fails and is repeated.
	for i := range 11 {
		w.on(120+i*300, func() {
			if k := w.job("shop", "report-"+string(rune('a'+i)), "report", 20, "Completed"); i == 5 {
				k.behave = func(p *pod) {
					if w.now-p.started >= 10 {
						result := "Completed"
						if p.runs == 1 {
							result = "Error"
						}
						w.end(p, result)
						k.done = result == "Completed"
						if !k.done {
							p.ended = ""
						}
					}
				}
			}
		})
	}
	// Builds and pulls write 12 GB in two minutes, and a dump takes four at 15 MB/s; both are removed later.
	w.on(900, func() { w.machine.writes = 100 * megabyte })
	w.on(1020, func() { w.machine.writes = 0 })
	w.on(2100, func() { w.machine.writes = 15 * megabyte })
	w.on(2340, func() { w.machine.writes = 0 })
	w.on(2500, func() { w.machine.avail += 14 * gigabyte })
	w.on(2800, func() { s.data.grows = 5 * megabyte }) // an import
	w.on(2900, func() { s.data.grows = 0.05 * megabyte })
	w.on(3000, func() { w.builds = append(w.builds, buildRun{"shop", "storefront", 13, "Building", ""}) })
	w.on(3090, func() { w.builds[len(w.builds)-1].phase = "Succeeded" })
	// The gateway and gantry serve are replaced: their counts begin anew.
	w.on(3200, func() {
		for _, r := range w.routes {
			r.codes, r.buckets, r.count, r.sum = nil, nil, 0, 0
		}
	})
	w.on(3260, func() {
		w.process = w0(w.now)
		for _, d := range w.dns {
			d.answered, d.failed = 0, 0
		}
	})
	// Names that do not exist outside, a slow resolver, and a time service that corrects a little.
	w.on(1700, func() { w.dns["."].failing = 0.05 })
	w.on(1760, func() { w.dns["."].failing = 0 })
	w.on(600, func() { w.machine.offset = 0.012 })
	w.on(660, func() { w.machine.offset = 0.001 })
	// A cache that warms up, and levels off.
	s.catalogue.fresh = func(p *pod) { p.rss = 0 }
	s.catalogue.behave = func(p *pod) {
		age := float64(w.now - p.started)
		p.rss = p.w.memory * (0.2 + 0.45*(1-math.Exp(-age/150))) * w.jitter(0.005)
	}
}
