package crash

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// ledger is what the API has acknowledged.
type ledger struct {
	mu       sync.Mutex
	entries  map[string]*entry
	newest   uint64 // of all revisions that were seen
	writes   int
	unsure   int
	verified int
}

// entry is one object: what was acknowledged last, and what was asked for since
// without an answer, after which nobody touches it again.
type entry struct {
	uid     types.UID
	value   string // "" when it was deleted
	pending *string
}

func (l *ledger) record(name string, uid types.UID, value string, version string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.entries == nil {
		l.entries = map[string]*entry{}
	}
	l.entries[name] = &entry{uid: uid, value: value}
	l.writes++
	var revision uint64
	if _, err := fmt.Sscan(version, &revision); err == nil {
		l.newest = max(l.newest, revision)
	}
}

func (l *ledger) unknown(name string, value string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.entries == nil {
		l.entries = map[string]*entry{}
	}
	if l.entries[name] == nil {
		l.entries[name] = &entry{}
	}
	l.entries[name].pending = &value
	l.unsure++
}

const writtenLabel = "test=siege"

// write creates, changes and deletes objects that nobody else touches.
func (s *siege) write(ctx context.Context, writer int, random *rand.Rand) {
	var mine []*corev1.ConfigMap
	for i := 0; ctx.Err() == nil; i++ {
		s.gate.RLock()
		var answered bool
		mine, answered = s.writeOnce(ctx, fmt.Sprintf("w-%d-%d", writer, i), mine, random)
		s.gate.RUnlock()
		pause := time.Duration(random.IntN(20)) * time.Millisecond
		if !answered {
			pause += 200 * time.Millisecond
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
}

// writeOnce makes one write and returns the objects whose state is known.
func (s *siege) writeOnce(ctx context.Context, name string, mine []*corev1.ConfigMap, random *rand.Rand) (_ []*corev1.ConfigMap, answered bool) {
	maps := s.client.CoreV1().ConfigMaps(namespace)
	kind, n := random.IntN(10), 0
	if len(mine) > 0 {
		n = random.IntN(len(mine))
	}
	switch {
	case len(mine) == 0 || kind < 5:
		cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"test": "siege"}}, Data: map[string]string{"v": name}}
		got, err := maps.Create(ctx, cm, metav1.CreateOptions{})
		if err != nil {
			s.ledger.unknown(name, name)
			return mine, false
		}
		s.ledger.record(name, got.UID, name, got.ResourceVersion)
		return append(mine, got), true
	case kind < 8:
		cm := mine[n].DeepCopy()
		cm.Data["v"] = name
		got, err := maps.Update(ctx, cm, metav1.UpdateOptions{})
		if err != nil {
			s.ledger.unknown(cm.Name, name)
			return slices.Delete(mine, n, n+1), false
		}
		s.ledger.record(cm.Name, got.UID, name, got.ResourceVersion)
		mine[n] = got
		return mine, true
	default:
		err := maps.Delete(ctx, mine[n].Name, metav1.DeleteOptions{})
		if err != nil {
			s.ledger.unknown(mine[n].Name, "")
		} else {
			s.ledger.record(mine[n].Name, mine[n].UID, "", "")
		}
		return slices.Delete(mine, n, n+1), err == nil
	}
}

// check compares what is there with what was acknowledged, while nobody writes.
func (l *ledger) check(s *siege) {
	s.t.Helper()
	s.gate.Lock()
	defer s.gate.Unlock()
	list, err := s.client.CoreV1().ConfigMaps(namespace).List(s.t.Context(), metav1.ListOptions{LabelSelector: writtenLabel})
	if err != nil {
		s.t.Fatalf("list what was written: %v", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	there := map[string]*corev1.ConfigMap{}
	for i := range list.Items {
		there[list.Items[i].Name] = &list.Items[i]
	}
	for name, e := range l.entries {
		if problem := e.compare(there[name]); problem != "" {
			s.t.Errorf("object %s: %s", name, problem)
		}
		delete(there, name)
	}
	for name := range there {
		s.t.Errorf("object %s is there and nobody wrote it", name)
	}
	var revision uint64
	if _, err := fmt.Sscan(list.ResourceVersion, &revision); err != nil || revision < l.newest {
		s.t.Errorf("the list is of revision %q, %d was acknowledged", list.ResourceVersion, l.newest)
	}
	l.verified += len(l.entries)
}

func (e *entry) compare(is *corev1.ConfigMap) string {
	value := ""
	if is != nil {
		value = is.Data["v"]
	}
	switch {
	case e.pending != nil && value == *e.pending, value == e.value && (is == nil || is.UID == e.uid):
		return ""
	case is == nil:
		return fmt.Sprintf("it was acknowledged with value %q and is gone", e.value)
	case e.value == "":
		return fmt.Sprintf("its deletion was acknowledged and it is there with value %q", value)
	}
	return fmt.Sprintf("%q of %s was acknowledged, it is %q of %s", e.value, e.uid, value, is.UID)
}

func (l *ledger) summary() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return fmt.Sprintf("%d acknowledged writes to %d objects, looked at %d times (%d writes got no answer)", l.writes, len(l.entries), l.verified, l.unsure)
}

// gone reports whether an error means that nobody answered, which is no answer.
func gone(err error) bool { return err != nil && !apierrors.IsNotFound(err) }
