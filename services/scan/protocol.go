package scan

import (
	"github.com/gantryhq/gantry/services/scan/report"
)

// job is a line that the service writes to its worker: one image, by digest.
type job struct {
	Image string `json:"image"`
}

// answer is a line that the worker writes when it has started, and then for each job,
// in their order.
type answer struct {
	Ready  bool           `json:"ready,omitempty"`
	Report *report.Report `json:"report,omitempty"`
	Error  string         `json:"error,omitempty"`
	Again  bool           `json:"again,omitempty"` // the error is this machine's, not the image's
}
