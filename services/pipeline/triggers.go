package pipeline

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/robfig/cron/v3"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/gantryhq/gantry/api/v1alpha1"
)

// watched is what is known of a Pipeline's triggers.
type watched struct {
	generation int64     // of the Pipeline that the rest is about
	nextPoll   time.Time // or zero
	nextRun    time.Time // of the schedule, or zero
	problem    error     // with the schedule or the webhook
	retry      time.Time // when to look whether the problem is gone, or zero
	looking    bool      // the repository is being asked
	again      bool      // and will be once more
}

// problemRetry is how long a problem with triggers is left alone.
const problemRetry = 30 * time.Second

// due says what a Pipeline's triggers want at a moment, and moves them on.
func (w *watched) due(p *v1alpha1.Pipeline, now time.Time) (look, run bool) {
	t := p.Spec.Triggers
	if w.generation != p.Generation || !w.retry.IsZero() && !now.Before(w.retry) {
		*w = watched{generation: p.Generation, looking: w.looking, again: w.again}
		if t.Schedule != "" {
			w.nextRun, w.problem = nextRun(t, now)
		}
		if t.PollSeconds > 0 || t.Webhook != nil {
			look = true // for what happened while nobody watched
		}
		if t.PollSeconds > 0 {
			w.nextPoll = now.Add(time.Duration(t.PollSeconds) * time.Second)
		}
	}
	if !w.nextPoll.IsZero() && !now.Before(w.nextPoll) {
		look = true
		w.nextPoll = now.Add(time.Duration(t.PollSeconds) * time.Second)
	}
	if !w.nextRun.IsZero() && !now.Before(w.nextRun) {
		run = true
		w.nextRun, w.problem = nextRun(t, now)
	}
	return look, run
}

// next is when due has something to say, or zero.
func (w *watched) next() (next time.Time) {
	for _, t := range []time.Time{w.nextPoll, w.nextRun, w.retry} {
		if !t.IsZero() && (next.IsZero() || t.Before(next)) {
			next = t
		}
	}
	return next
}

// nextRun is the next moment of a schedule after now.
func nextRun(t v1alpha1.PipelineTriggers, now time.Time) (time.Time, error) {
	zone := time.UTC
	if t.TimeZone != "" {
		var err error
		if zone, err = time.LoadLocation(t.TimeZone); err != nil {
			return time.Time{}, fmt.Errorf("spec.triggers.timeZone: there is no time zone %q", t.TimeZone)
		}
	}
	schedule, err := cron.ParseStandard(t.Schedule)
	if err != nil {
		return time.Time{}, fmt.Errorf("spec.triggers.schedule: %w", err)
	}
	return schedule.Next(now.In(zone)), nil
}

// watch serves the triggers of one Pipeline and returns when to come back, or zero.
func (s *Service) watch(ctx context.Context, p *v1alpha1.Pipeline, now time.Time) time.Time {
	if p.Spec.Suspend || p.DeletionTimestamp != nil {
		return time.Time{}
	}
	k := p.Namespace + "/" + p.Name
	s.mu.Lock()
	w := s.watched[k]
	if w == nil {
		w = &watched{generation: -1}
		s.watched[k] = w
	}
	fresh := w.generation != p.Generation || !w.retry.IsZero() && !now.Before(w.retry)
	look, run := w.due(p, now)
	next, problem, scheduled := w.next(), w.problem, w.nextRun
	s.mu.Unlock()
	if fresh {
		s.work.Go(func() { s.introduce(ctx, p, scheduled, problem) })
	}
	if look {
		s.look(ctx, p, "Poll")
	}
	if run {
		s.work.Go(func() {
			if _, err := NewBuild(ctx, s.api, p, v1alpha1.BuildSpec{Trigger: "Schedule"}); err != nil && ctx.Err() == nil {
				s.cfg.Log.Warn("cannot start a scheduled build", "pipeline", k, "err", err)
			}
			if err := s.patchPipeline(ctx, p.Namespace, p.Name, map[string]any{"nextRun": metav1.NewTime(scheduled)}); err != nil && ctx.Err() == nil {
				s.cfg.Log.Warn("cannot say when a pipeline runs next", "pipeline", k, "err", err)
			}
		})
	}
	return next
}

// introduce says in the status what the triggers of a new or changed Pipeline are.
func (s *Service) introduce(ctx context.Context, p *v1alpha1.Pipeline, scheduled time.Time, problem error) {
	status := map[string]any{"nextRun": nil, "webhookPath": nil}
	if !scheduled.IsZero() {
		status["nextRun"] = metav1.NewTime(scheduled)
	}
	if p.Spec.Triggers.Webhook != nil {
		if err := s.openHooks(ctx); err != nil {
			problem = errors.Join(problem, err)
		} else {
			status["webhookPath"] = HookPath(p.Namespace, p.Name)
		}
	}
	s.mu.Lock()
	if w := s.watched[p.Namespace+"/"+p.Name]; w != nil && w.generation == p.Generation {
		if w.problem = problem; problem != nil {
			w.retry = time.Now().Add(problemRetry)
		}
	}
	s.mu.Unlock()
	s.wake()
	if problem != nil || p.Spec.Triggers.PollSeconds == 0 && p.Spec.Triggers.Webhook == nil {
		status["conditions"] = conditions(p, problem, "Ready")
	}
	if err := s.patchPipeline(ctx, p.Namespace, p.Name, status); err != nil && ctx.Err() == nil {
		s.cfg.Log.Warn("cannot write a pipeline's status", "err", err)
	}
}

// conditions are those of a Pipeline with what was found out now.
func conditions(p *v1alpha1.Pipeline, problem error, reason string) []metav1.Condition {
	out := append([]metav1.Condition{}, p.Status.Conditions...)
	c := metav1.Condition{Type: "Ready", Status: metav1.ConditionTrue, Reason: reason, ObservedGeneration: p.Generation}
	if problem != nil {
		c.Status, c.Message = metav1.ConditionFalse, clip(problem.Error(), 1000)
		if reason == "Ready" {
			c.Reason = "InvalidTriggers"
		}
	}
	meta.SetStatusCondition(&out, c)
	return out
}

// look asks the repository of a Pipeline for its newest commit, in the background,
// and makes a Build when there is none of it yet. What comes while it asks makes it
// ask once more.
func (s *Service) look(ctx context.Context, p *v1alpha1.Pipeline, trigger string) {
	k := p.Namespace + "/" + p.Name
	s.mu.Lock()
	defer s.mu.Unlock()
	w := s.watched[k]
	if w == nil {
		return
	}
	if w.looking {
		w.again = true
		return
	}
	w.looking = true
	s.work.Go(func() {
		for {
			err := s.lookOnce(ctx, p, trigger)
			if err != nil && ctx.Err() == nil {
				s.cfg.Log.Warn("cannot look for new commits", "pipeline", k, "err", err)
			}
			s.mu.Lock()
			again := w.again && ctx.Err() == nil
			w.again, w.looking = false, again
			s.mu.Unlock()
			if !again {
				return
			}
		}
	})
}

func (s *Service) lookOnce(ctx context.Context, p *v1alpha1.Pipeline, trigger string) error {
	p, err := s.api.Pipelines(p.Namespace).Get(ctx, p.Name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	head, err := s.head(ctx, p)
	if err != nil {
		return errors.Join(err, s.patchPipeline(ctx, p.Namespace, p.Name, map[string]any{"conditions": conditions(p, err, "RepositoryUnavailable")}))
	}
	status := map[string]any{}
	s.mu.Lock()
	w := s.watched[p.Namespace+"/"+p.Name]
	well := w != nil && w.problem == nil
	s.mu.Unlock()
	if c := meta.FindStatusCondition(p.Status.Conditions, "Ready"); well && (c == nil || c.Status != metav1.ConditionTrue || c.ObservedGeneration != p.Generation) {
		status["conditions"] = conditions(p, nil, "Ready")
	}
	if head != p.Status.LastCommit {
		status["lastCommit"] = head
		if _, err := NewBuild(ctx, s.api, p, v1alpha1.BuildSpec{Trigger: trigger, Commit: head}); err != nil {
			return err
		}
	}
	if len(status) == 0 {
		return nil
	}
	return s.patchPipeline(ctx, p.Namespace, p.Name, status)
}

func (s *Service) head(ctx context.Context, p *v1alpha1.Pipeline) (string, error) {
	repo, err := s.repository(ctx, p)
	if err != nil {
		return "", err
	}
	return repo.head(ctx)
}

// repository is the one of a Pipeline, with its credentials.
func (s *Service) repository(ctx context.Context, p *v1alpha1.Pipeline) (*repository, error) {
	var secret *corev1.Secret
	if name := p.Spec.Source.SecretName; name != "" {
		var err error
		if secret, err = s.kube.CoreV1().Secrets(p.Namespace).Get(ctx, name, metav1.GetOptions{}); err != nil {
			return nil, fmt.Errorf("credentials of the repository: %w", err)
		}
	}
	r, err := newRepository(p.Spec.Source, secret, filepath.Join(s.cfg.Dir, "git", p.Namespace, p.Name))
	if err == nil {
		r.local = s.cfg.LocalRepositories
	}
	return r, err
}
