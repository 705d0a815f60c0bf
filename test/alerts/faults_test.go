package alerts

// fault is one kind of trouble.
type fault struct {
	name string
	// alert must fire with these labels; names and values in turn, "~" before a value for its beginning.
	alert  string
	object []string
	// also are alerts that may fire too, because of the same trouble.
	also []string
	// lead is how long before second 0 it begins where it grows; second 0 is when it becomes a threat.
	lead  int
	begin func(s *shop)
	// each is called every second from begin on, or nil.
	each func(s *shop)
}

func podOf(k *workload) *pod { return k.pods[len(k.pods)-1] }

// faults are what an operator of a shop has met.
var faults = []fault{
	{name: "a container crashes again and again", alert: "PodCrashLooping", object: []string{"namespace", "shop", "pod", "~cart-", "container", "cart"},
		begin: func(s *shop) { broken := s.cart.pods[0]; s.cart.behave = crashing(s, broken) }},
	{name: "a new version crashes at its start", alert: "PodCrashLooping", object: []string{"namespace", "shop", "pod", "~storefront-", "container", "storefront"},
		begin: func(s *shop) {
			s.storefront.generation++
			next := s.storefront.generation
			s.storefront.behave = func(p *pod) {
				if p.generation == next {
					s.end(p, "Error")
				}
			}
		}},
	{name: "a container is killed for want of memory", alert: "ContainerOOMKilled", object: []string{"namespace", "shop", "pod", "~catalogue-", "container", "catalogue"},
		begin: func(s *shop) { s.end(s.catalogue.pods[0], "OOMKilled") }},
	{name: "a process in a container is killed for want of memory", alert: "ContainerOOMKilled", object: []string{"namespace", "shop", "pod", "~worker-", "container", "worker"},
		begin: func(s *shop) { s.worker.pods[0].oom++ }},
	{name: "memory leaks: five minutes to the limit", alert: "ContainerMemoryLeaking", object: []string{"namespace", "shop", "pod", "~storefront-", "container", "storefront"},
		lead: 240, begin: func(s *shop) {
			p := s.storefront.pods[1] // from 45 % by 0.11 % of the limit each second: 71 % and five minutes at second 0
			p.rss = 0.45 * p.w.memory
			s.storefront.behave = func(q *pod) {
				if q == p {
					p.rss = p.w.memory * (0.45 + 0.0011*float64(s.now-beganFault))
				}
			}
		}},
	{name: "a route answers everything with 500", alert: "RouteFailing", object: []string{"namespace", "shop", "route", "HTTPRoute/shop/cart"}, also: []string{"RouteErrorBudgetBurning"},
		begin: func(s *shop) { s.api.errors = 1 }},
	{name: "a route answers a quarter with 500", alert: "RouteFailing", object: []string{"namespace", "shop", "route", "HTTPRoute/shop/storefront"}, also: []string{"RouteErrorBudgetBurning"},
		begin: func(s *shop) { s.front.errors = 0.25 }},
	{name: "a route has no backend", alert: "RouteFailing", object: []string{"namespace", "shop", "route", "HTTPRoute/shop/cart"},
		also: []string{"RouteErrorBudgetBurning"}, begin: func(s *shop) { s.cart.replicas = 0 }},
	{name: "a route answers a hundred times slower", alert: "RouteSlow", object: []string{"namespace", "shop", "route", "HTTPRoute/shop/storefront"}, also: []string{"RouteLatencyBudgetBurning"},
		begin: func(s *shop) { s.front.slow = 150 }},
	{name: "readiness probes fail", alert: "PodNotReady", object: []string{"namespace", "shop", "pod", "~storefront-"},
		begin: func(s *shop) { podOf(s.storefront).probeFails = true }},
	{name: "an image cannot be pulled", alert: "ImagePullFailing", object: []string{"namespace", "shop", "pod", "~cart-", "container", "cart"},
		begin: func(s *shop) {
			s.cart.generation++
			s.cart.fresh = func(p *pod) { p.waiting = "ErrImagePull" }
		}, each: func(s *shop) {
			for _, p := range s.cart.pods {
				if !p.running && s.now-p.created > 2 {
					p.waiting = []string{"ErrImagePull", "ImagePullBackOff"}[s.now/7%2]
				}
			}
		}},
	{name: "a Secret that a container names is missing", alert: "ContainerCannotStart", object: []string{"namespace", "blog", "pod", "~web-", "container", "web"},
		begin: func(s *shop) {
			s.web.generation++
			s.web.fresh = func(p *pod) { p.waiting = "CreateContainerConfigError" }
		}},
	{name: "there is no room for a pod", alert: "PodPending", object: []string{"namespace", "shop", "pod", "~catalogue-"},
		begin: func(s *shop) {
			s.catalogue.fresh = func(p *pod) { p.unschedulable = true }
			s.catalogue.replicas++
		}},
	{name: "pods may not be created", alert: "ReplicasMissing", object: []string{"namespace", "shop", "deployment", "cart"},
		begin: func(s *shop) { s.cart.forbidden = true; s.cart.replicas += 2 }},
	{name: "a replica is lost and may not be created again", alert: "ReplicasMissing", object: []string{"namespace", "shop", "statefulset", "redis"},
		begin: func(s *shop) { s.redis.forbidden = true; s.redis.pods[2].deleted = s.now }},
	{name: "a roll-out exceeds its deadline", alert: "RolloutStuck", object: []string{"namespace", "shop", "deployment", "reports"},
		begin: func(s *shop) { s.reports.stuck = true }},
	{name: "a Job fails", alert: "JobFailed", object: []string{"namespace", "shop", "job_name", "nightly"},
		begin: func(s *shop) {
			k := s.job("shop", "nightly", "", 1, "Error")
			k.pods[0].runs = 3 // its last try
			k.created = s.now
		}},
	{name: "a CPU limit holds a container back", alert: "ContainerThrottled", object: []string{"namespace", "shop", "pod", "~worker-", "container", "worker"},
		begin: func(s *shop) { s.worker.pods[1].throttle = 0.95 }},
	{name: "the disk fills: ten minutes left", alert: "DiskFilling", object: []string{"node", nodeName, "mountpoint", "/"}, lead: 200,
		begin: func(s *shop) { s.machine.writes = 120 * megabyte }},
	{name: "a volume fills: ten minutes left", alert: "VolumeFilling", object: []string{"namespace", "shop", "persistentvolumeclaim", "data-postgres-0"}, lead: 200,
		begin: func(s *shop) { s.data.grows = 5.3 * megabyte }},
	{name: "a volume is full", alert: "VolumeFilling", object: []string{"namespace", "shop", "persistentvolumeclaim", "data-redis-0"},
		begin: func(s *shop) { s.claims[1].used = 0.97 * gigabyte }},
	{name: "the node has memory pressure", alert: "NodePressure", object: []string{"node", nodeName, "condition", "MemoryPressure"},
		begin: func(s *shop) { s.machine.pressure = "MemoryPressure" }},
	{name: "the node is not ready", alert: "NodeNotReady", object: []string{"node", nodeName},
		begin: func(s *shop) { s.machine.notReady = true }},
	{name: "the machine's memory runs out", alert: "NodeMemoryShort", object: []string{"node", nodeName},
		begin: func(s *shop) { s.machine.free = 0.6 * gigabyte }},
	{name: "the disk becomes read-only", alert: "FilesystemReadOnly", object: []string{"node", nodeName, "mountpoint", "/"},
		begin: func(s *shop) { s.machine.readOnly = true }},
	{name: "the clock drifts away", alert: "ClockSkewed", object: []string{"node", nodeName},
		begin: func(s *shop) { s.machine.offset = 0.2 }, each: func(s *shop) { s.machine.offset += 0.001 }},
	{name: "the clock leaps", alert: "ClockSkewed", object: []string{"node", nodeName},
		begin: func(s *shop) { s.machine.step, s.machine.stepped = -40, w0(s.now) }},
	{name: "names outside cannot be resolved", alert: "DNSFailing", object: []string{"zone", "."},
		begin: func(s *shop) { s.dns["."].failing = 1 }},
	{name: "names of Services cannot be resolved", alert: "DNSFailing", object: []string{"zone", "cluster.local."},
		begin: func(s *shop) { s.dns["cluster.local."].failing = 0.5 }},
	{name: "a certificate has a week left and is not renewed", alert: "CertificateExpiring", object: []string{"namespace", "shop", "secret_name", "shop-tls"},
		begin: func(s *shop) { s.certs[0].from, s.certs[0].until = w0(s.now-83*86400), w0(s.now+7*86400) }},
	{name: "a certificate has ended", alert: "CertificateExpired", object: []string{"namespace", "shop", "secret_name", "shop-tls"},
		begin: func(s *shop) { s.certs[0].from, s.certs[0].until = w0(s.now-90*86400), w0(s.now) }},
	{name: "the authority of the instance ends", alert: "CertificateExpiring", object: []string{"filename", "ca.crt"},
		begin: func(s *shop) { s.certs[2].from, s.certs[2].until = w0(s.now-3650*86400), w0(s.now+3*86400) }},
	{name: "there is no new backup", alert: "BackupTooOld", object: []string{"instance", "kubernetes"},
		begin: func(s *shop) { s.backup = w0(s.now - 2*3600) }},
	{name: "a build fails", alert: "BuildFailed", object: []string{"namespace", "shop", "pipeline", "storefront", "build", "storefront-13"},
		begin: func(s *shop) {
			s.builds = append(s.builds, buildRun{"shop", "storefront", 13, "Failed", "BuildFailed"})
		}},
	{name: "an unsigned image is refused", alert: "ImageRefused", object: []string{"namespace", "shop", "image", "docker.io/library/miner:latest"},
		begin: func(s *shop) { s.refused[[3]string{"signed", "shop", "docker.io/library/miner:latest"}] = w0(s.now) }},
	{name: "a target hangs", alert: "TargetDown", object: []string{"namespace", "shop", "pod", "~catalogue-"},
		begin: func(s *shop) { s.catalogue.pods[1].silent = hangs }},
	{name: "a target refuses connections", alert: "TargetDown", object: []string{"namespace", "shop", "pod", "~catalogue-"},
		begin: func(s *shop) { s.catalogue.pods[0].silent = refuses }},
}

// beganFault is the second at which gradual faults begin, before their onset.
const beganFault = onset - 240

func crashing(s *shop, broken *pod) func(*pod) {
	return func(p *pod) {
		if p == broken {
			s.end(p, "Error")
		}
	}
}
