package app

import (
	"maps"
	"path/filepath"
	"reflect"
	"strings"
	"time"

	"github.com/compose-spec/compose-go/v2/types"
)

// seconds rounds up: Kubernetes counts whole seconds, and zero means "default".
func seconds(d time.Duration) int32 {
	return int32((d + time.Second - 1) / time.Second)
}

func duration(d *types.Duration, otherwise time.Duration) time.Duration {
	if d == nil || *d == 0 {
		return otherwise
	}
	return time.Duration(*d)
}

// merge returns a new map in which the later map wins, or nil when all are empty.
func merge(all ...map[string]string) map[string]string {
	var out map[string]string
	for _, m := range all {
		if len(m) == 0 {
			continue
		}
		if out == nil {
			out = map[string]string{}
		}
		maps.Copy(out, m)
	}
	return out
}

func orDefault(value, otherwise string) string {
	if value == "" {
		return otherwise
	}
	return value
}

func absIn(dir, path string) string {
	if path == "" || filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(dir, path)
}

func isZero(v any) bool { return reflect.ValueOf(v).IsZero() }

func containsFold(s, part string) bool {
	return strings.Contains(strings.ToLower(s), strings.ToLower(part))
}
