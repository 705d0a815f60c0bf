package timeline

import (
	"cmp"
	"fmt"
	"strconv"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/gantryhq/gantry/api/v1alpha1"
)

func listOptions(version string) metav1.ListOptions {
	return metav1.ListOptions{ResourceVersion: version, AllowWatchBookmarks: true}
}

// noticeBuild records how a Build has ended.
func (r *Recorder) noticeBuild(b *v1alpha1.Build) {
	if !b.Status.Phase.Ended() || b.Status.CompletionTime == nil {
		return
	}
	e := &Event{
		Time: b.Status.CompletionTime.Time, Kind: "build", Severity: "info", Namespace: b.Namespace, Workload: b.Spec.Pipeline, Object: "build/" + b.Name,
		By: b.Spec.Trigger, Details: map[string]string{"number": strconv.FormatInt(b.Spec.Number, 10), "phase": string(b.Status.Phase)}, Key: string(b.UID),
	}
	what := fmt.Sprintf("build %d of %s", b.Spec.Number, b.Spec.Pipeline)
	if c := b.Status.Commit; c != nil {
		e.Details["commit"] = c.ID
		e.By = cmp.Or(c.Author, e.By)
		what += " (" + cmp.Or(c.Short, c.ID) + ")"
	}
	if b.Status.Phase == v1alpha1.BuildSucceeded {
		e.Message = what + " succeeded"
	} else {
		e.Severity, e.Message = "error", what+": "+b.Status.Reason+": "+b.Status.Message
		e.Details["reason"] = b.Status.Reason
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.put(e)
}
