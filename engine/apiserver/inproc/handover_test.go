package inproc

import (
	"bytes"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestAnObjectIsHandedOverOnce(t *testing.T) {
	left := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "web", Labels: map[string]string{"app": "web"}}}
	var ticket bytes.Buffer
	if err := (handOver{}).Encode(left, &ticket); err != nil {
		t.Fatal(err)
	}
	left.Labels["app"] = "changed later"
	var into corev1.Pod
	if _, _, err := (handOver{}).Decode(ticket.Bytes(), nil, &into); err != nil {
		t.Fatal(err)
	}
	if into.Labels["app"] != "web" {
		t.Errorf("got %v", into.Labels)
	}
	if _, _, err := (handOver{}).Decode(ticket.Bytes(), nil, &into); err == nil {
		t.Error("the same ticket was good twice")
	}
	if _, _, err := (handOver{}).Decode([]byte("anything"), nil, &into); err == nil {
		t.Error("what is no ticket was taken for one")
	}
}

// Clients do not decode a Status that says that all went well.
func TestAStatusLeavesNoTicket(t *testing.T) {
	before := len(cloakroom.held)
	var data bytes.Buffer
	if err := (handOver{}).Encode(&metav1.Status{Status: metav1.StatusFailure, Reason: metav1.StatusReasonConflict}, &data); err != nil {
		t.Fatal(err)
	}
	if len(cloakroom.held) != before {
		t.Error("a ticket is left")
	}
	obj, _, err := (handOver{}).Decode(data.Bytes(), nil, nil)
	if status, ok := obj.(*metav1.Status); err != nil || !ok || status.Reason != metav1.StatusReasonConflict {
		t.Errorf("got %v, %v", obj, err)
	}
}

func TestUnclaimedObjectsAreBounded(t *testing.T) {
	room := &tickets{held: map[uint64]any{}}
	for range 3 * unclaimed {
		room.leave("forgotten")
	}
	if len(room.held) > unclaimed {
		t.Errorf("%d objects wait, want at most %d", len(room.held), unclaimed)
	}
	if v, ok := room.collect(room.leave("latest")); !ok || v != "latest" {
		t.Errorf("got %v, %v", v, ok)
	}
}
