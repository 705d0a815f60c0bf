package runtime

import (
	"encoding/json"
	"fmt"
)

// Extras are what a pod's container can be given that the Kubernetes API has no word
// for. They travel as JSON in an annotation of the pod; the zero value asks for nothing.
type Extras struct {
	Rlimits     []Rlimit `json:"rlimits,omitempty"`
	PidsLimit   int64    `json:"pidsLimit,omitempty"` // -1 is none, 0 the node's own
	OOMScoreAdj *int     `json:"oomScoreAdj,omitempty"`
	Devices     []Device `json:"devices,omitempty"`
	DeviceRules []string `json:"deviceRules,omitempty"` // "c 10:200 rwm", as the kernel's devices controller writes them
	Tmpfs       []Mount  `json:"tmpfs,omitempty"`
	ShmBytes    int64    `json:"shmBytes,omitempty"` // of /dev/shm; 0 is the usual 64 MB
	Domainname  string   `json:"domainname,omitempty"`
	HostUTS     bool     `json:"hostUTS,omitempty"`

	// NoNetwork leaves the pod with a loopback interface and no address.
	NoNetwork bool `json:"noNetwork,omitempty"`
	// UIDs of running pods of this node whose namespaces are joined. Who joins a
	// network shares host name and /etc/hosts as well, and has no address of its own.
	NetworkOf string `json:"networkOf,omitempty"`
	IPCOf     string `json:"ipcOf,omitempty"`
	PIDsOf    string `json:"pidsOf,omitempty"`
}

// ParseExtras reads what an annotation says. "" is the zero value.
func ParseExtras(text string) (Extras, error) {
	var e Extras
	if text == "" {
		return e, nil
	}
	if err := json.Unmarshal([]byte(text), &e); err != nil {
		return e, fmt.Errorf("read extras: %w", err)
	}
	return e, nil
}

// Rlimit is a resource limit by its name in the OCI specification ("RLIMIT_NOFILE").
type Rlimit struct {
	Name string `json:"name"`
	Soft uint64 `json:"soft"`
	Hard uint64 `json:"hard"`
}

// Device is a device of the host, or all those below a directory, as a container has it.
type Device struct {
	Host   string `json:"host"`
	Inside string `json:"inside,omitempty"` // path in the container, "" the same
	Access string `json:"access,omitempty"` // letters of "rwm", "" all of them
}
