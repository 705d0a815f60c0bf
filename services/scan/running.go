package scan

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/gantryhq/gantry/services/scan/osvdb"
	"github.com/gantryhq/gantry/services/scan/report"
)

const namedInEvent = 5 // vulnerabilities

// tell raises an Event on each pod that runs an image of which something new is
// known. What is low or less is news for the next build, not for an operator.
func (s *Service) tell(ctx context.Context, subjects []name.Digest, before, now *report.Report) error {
	fresh := news(before, now)
	if len(fresh) == 0 {
		return nil
	}
	pods, err := s.kube.CoreV1().Pods("").List(ctx, metav1.ListOptions{ResourceVersion: "0"})
	if err != nil {
		return fmt.Errorf("find pods that run the image: %w", err)
	}
	for i := range pods.Items {
		pod := &pods.Items[i]
		container, runs := running(pod, subjects)
		if !runs {
			continue
		}
		if err := s.event(ctx, pod, container, describe(fresh)); err != nil {
			return err
		}
	}
	return nil
}

// news are the findings of medium severity and above that were not there before.
func news(before, now *report.Report) (fresh []report.Vulnerability) {
	known := map[string]bool{}
	if before != nil {
		known = before.Keys()
	}
	for _, v := range now.Vulnerabilities {
		if v.Severity >= osvdb.Medium && !known[v.ID+" "+v.Package] {
			fresh = append(fresh, v)
		}
	}
	return fresh
}

// running finds the container of a pod that runs one of the digests.
func running(pod *corev1.Pod, subjects []name.Digest) (container string, ok bool) {
	if pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed {
		return "", false
	}
	for _, c := range slices.Concat(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses) {
		for _, d := range subjects {
			if strings.HasSuffix(c.ImageID, d.DigestStr()) {
				return c.Name, true
			}
		}
	}
	return "", false
}

// describe says in one sentence what is new, the worst first.
func describe(fresh []report.Vulnerability) string {
	var named []string
	seen := map[string]bool{}
	for _, v := range fresh {
		if seen[v.ID] {
			continue
		}
		seen[v.ID] = true
		text := fmt.Sprintf("%s (%s, %s", v.ID, v.Severity, v.Package)
		if v.Fixed != "" {
			text += ", fixed in " + v.Fixed
		}
		named = append(named, text+")")
	}
	text := strings.Join(named[:min(len(named), namedInEvent)], ", ")
	if more := len(named) - namedInEvent; more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}

func (s *Service) event(ctx context.Context, pod *corev1.Pod, container, found string) error {
	now := metav1.NewTime(time.Now())
	_, err := s.kube.CoreV1().Events(pod.Namespace).Create(ctx, &corev1.Event{
		ObjectMeta: metav1.ObjectMeta{GenerateName: pod.Name + ".", Namespace: pod.Namespace},
		InvolvedObject: corev1.ObjectReference{
			APIVersion: "v1", Kind: "Pod", Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID,
			FieldPath: "spec.containers{" + container + "}",
		},
		Type: corev1.EventTypeWarning, Reason: "VulnerabilityFound", Message: "The image that runs has known vulnerabilities: " + found,
		Source: corev1.EventSource{Component: "gantry-scan"}, FirstTimestamp: now, LastTimestamp: now, Count: 1,
	}, metav1.CreateOptions{})
	if err != nil {
		return fmt.Errorf("raise event on pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	return nil
}

func linux() v1.Platform { return v1.Platform{OS: "linux", Architecture: runtime.GOARCH} }

// gone is whether a registry answered that there is no such thing.
func gone(err error) bool { return hasStatus(err, http.StatusNotFound) }

// notKept is whether a repository takes nothing from anybody.
func notKept(err error) bool { return hasStatus(err, http.StatusMethodNotAllowed) }

func hasStatus(err error, status int) bool {
	var answer *transport.Error
	return errors.As(err, &answer) && answer.StatusCode == status
}
