package pipeline

import (
	"cmp"
	"slices"

	"github.com/gantryhq/gantry/api/v1alpha1"
)

// decision says what to do with the Builds that have not ended.
type decision struct {
	start  []*v1alpha1.Build
	cancel []*v1alpha1.Build // a newer commit is there; running or not
}

// decide is the queue: which Builds start, oldest first, one of each Pipeline and so
// many at a time, and which are no longer wanted. running has the Builds that run
// here, by key.
func decide(builds []*v1alpha1.Build, running map[string]bool, parallel int) decision {
	var d decision
	open := slices.DeleteFunc(slices.Clone(builds), func(b *v1alpha1.Build) bool { return b.Status.Phase.Ended() })
	slices.SortFunc(open, func(x, y *v1alpha1.Build) int {
		return cmp.Or(x.CreationTimestamp.Compare(y.CreationTimestamp.Time), cmp.Compare(x.Spec.Number, y.Spec.Number), cmp.Compare(key(x), key(y)))
	})
	busy := map[string]bool{}
	free := parallel - len(running)
	for _, b := range open {
		if running[key(b)] {
			busy[pipelineKey(b)] = true
		}
	}
	for _, b := range open {
		switch p := pipelineKey(b); {
		case overtaken(b, open):
			d.cancel = append(d.cancel, b)
		case !running[key(b)] && !busy[p] && free > 0:
			busy[p] = true
			free--
			d.start = append(d.start, b)
		}
	}
	return d
}

// overtaken is whether a Build that started by itself has a successor of a newer
// commit. What has begun to deploy is finished, and what a person started too.
func overtaken(b *v1alpha1.Build, open []*v1alpha1.Build) bool {
	if b.Spec.Trigger != "Poll" && b.Spec.Trigger != "Webhook" || b.Status.Phase == v1alpha1.BuildDeploying {
		return false
	}
	return slices.ContainsFunc(open, func(o *v1alpha1.Build) bool {
		return pipelineKey(o) == pipelineKey(b) && o.Spec.Number > b.Spec.Number && o.Spec.Redeploy == 0 &&
			(o.Spec.Commit == "" || o.Spec.Commit != b.Spec.Commit)
	})
}

func key(b *v1alpha1.Build) string { return b.Namespace + "/" + b.Name }

func pipelineKey(b *v1alpha1.Build) string { return b.Namespace + "/" + b.Spec.Pipeline }
