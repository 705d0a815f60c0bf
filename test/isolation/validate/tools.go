//go:build tools

// Package validate keeps the version of opencontainers/runtime-tools whose
// validation programs the script run builds. It has no code.
package validate

import (
	_ "github.com/opencontainers/runtime-tools/cmd/runtimetest"
	_ "github.com/opencontainers/runtime-tools/validation/create"
	_ "github.com/opencontainers/runtime-tools/validation/util"
)
