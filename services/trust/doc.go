// Package trust decides which images may run, as objects of the kind TrustPolicy
// (gantry.dev/v1alpha1) say: who must have signed them, what they may be built on, how
// their last scan must have ended, what else must be attested.
//
// It is asked three times. When a workload is created it warns; when a pod is created it
// refuses, or replaces tags by the digests that it checked (both as admission webhooks,
// [Service.ServeHTTP]); and before a container starts the node asks again ([Service.Check]),
// so that neither a pod from before the policy nor one that passed by the webhook starts.
//
// Guarantees: an image that the rules refuse never runs in a covered namespace; what
// cannot be decided (a key that is missing, a registry that does not answer) counts as
// refused, and says so. A digest that was accepted stays accepted for the same policy and
// keys, also while its registry is away and after a restart; a scan result only as long
// as it is young enough. While there is no policy there is no webhook and no cost.
// Namespaces of the system are never covered, so a policy cannot lock the platform out.
//
// Callers may not assume that an answer is quick: the first one about a digest waits for
// the registry.
//
// All it gets is a *rest.Config, so it runs on any cluster: `gantry serve` answers the
// webhooks in its own process, `gantry trust` behind TLS. Imported by cmd/gantry only.
package trust
