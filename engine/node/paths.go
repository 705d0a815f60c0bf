package node

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"path/filepath"
	"regexp"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// paths names everything the node keeps below the data directory.
type paths struct{ data string }

func (p paths) pods() string             { return filepath.Join(p.data, "pods") }
func (p paths) pod(uid types.UID) string { return filepath.Join(p.pods(), string(uid)) }

// memory is one tmpfs for all that must not reach the disk: secrets and tokens.
func (p paths) memory() string { return filepath.Join(p.data, "run", "memory") }

// sandboxes is one tmpfs. A sandbox holds a pod's pinned namespaces, what is known
// about them and the files that its containers share. It vanishes at a reboot,
// like the namespaces.
func (p paths) sandboxes() string            { return filepath.Join(p.data, "run", "sandbox") }
func (p paths) sandbox(uid types.UID) string { return filepath.Join(p.sandboxes(), string(uid)) }

// pause is the root directory of the processes that hold shared PID namespaces.
func (p paths) pause() string { return filepath.Join(p.data, "run", "pause") }

func (p paths) terminationLog(uid types.UID, containerID string) string {
	return filepath.Join(pins{dir: p.sandbox(uid)}.terminationDir(), containerID)
}

func (p paths) logs() string { return PodLogs(p.data) }

// PodLogs is the directory of pods' logs below a data directory, in the layout of a kubelet's /var/log/pods.
func PodLogs(dataDir string) string { return filepath.Join(dataDir, "logs", "pods") }

func (p paths) podLogs(pod *v1.Pod) string {
	return filepath.Join(p.logs(), pod.Namespace+"_"+pod.Name+"_"+string(pod.UID))
}

func (p paths) containerLogs(pod *v1.Pod, container string) string {
	return filepath.Join(p.podLogs(pod), container)
}

func (p paths) log(pod *v1.Pod, container string, attempt int) string {
	return filepath.Join(p.containerLogs(pod, container), fmt.Sprintf("%d.log", attempt))
}

// Labels of containers, by which a new process recognizes them.
const (
	labelNamespace = "gantry.dev/namespace"
	labelPod       = "gantry.dev/pod"
	labelContainer = "gantry.dev/container"
	labelAttempt   = "gantry.dev/attempt"
	labelSandbox   = "gantry.dev/sandbox"
	labelImage     = "gantry.dev/image"
	labelImageID   = "gantry.dev/image-id"
	labelSpecHash  = "gantry.dev/spec-hash"
)

// pauseContainer is the name label of the process that holds a shared PID
// namespace. No container of a pod can have it.
const pauseContainer = "_pause"

var plainUID = regexp.MustCompile(`^[a-z0-9-]{1,40}$`)

// containerID is the same for the same run of the same container: a start that
// was interrupted finds what it has made.
func containerID(uid types.UID, container string, attempt int) string {
	return fmt.Sprintf("%s-%s-%d", podID(uid), shortHash(container), attempt)
}

// podID is the pod's UID, or a name made of it when it cannot be part of an id.
func podID(uid types.UID) string {
	if plainUID.MatchString(string(uid)) {
		return string(uid)
	}
	return shortHash(string(uid)) + shortHash("uid"+string(uid))
}

func shortHash(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:4])
}
