package scan

import (
	"github.com/gantryhq/gantry/services/scan/report"
)

// job is a line that the service writes to its worker: one image, by digest.
type job struct {
	Image string `json:"image"`
}

// answer is a line that the worker writes for each job, in their order.
type answer struct {
	Report *report.Report `json:"report,omitempty"`
	Error  string         `json:"error,omitempty"`
}
