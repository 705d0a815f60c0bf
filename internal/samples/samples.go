// Package samples asks the monitor in PromQL: the Prometheus HTTP API under the API server's address, with the
// caller's identity, which needs the ClusterRole gantry-metrics-reader or its rights.
//
// Errors say what to do where the monitor is absent, still starting, or not for the asker.
//
// Imported by services and commands that read samples.
package samples

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/api"
	prometheusv1 "github.com/prometheus/client_golang/api/prometheus/v1"
	"github.com/prometheus/common/model"
	"k8s.io/client-go/rest"

	"github.com/gantryhq/gantry/internal/hint"
)

// path is where the API server has the Prometheus HTTP API.
const path = "prometheus"

// Reader asks one server. Its methods are safe for concurrent use.
type Reader struct{ api prometheusv1.API }

// New makes a reader of the installation that cfg leads to.
func New(cfg *rest.Config) (*Reader, error) {
	through, err := rest.TransportFor(cfg)
	if err != nil {
		return nil, fmt.Errorf("reach the monitor: %w", err)
	}
	base, _, err := rest.DefaultServerUrlFor(cfg)
	if err != nil {
		return nil, fmt.Errorf("reach the monitor: %w", err)
	}
	return at(api.Config{Address: base.JoinPath(path).String(), RoundTripper: transport{through}})
}

// At makes a reader of any Prometheus server, without a login.
func At(url string) (*Reader, error) { return at(api.Config{Address: url}) }

func at(cfg api.Config) (*Reader, error) {
	client, err := api.NewClient(cfg)
	if err != nil {
		return nil, fmt.Errorf("reach Prometheus: %w", err)
	}
	return &Reader{prometheusv1.NewAPI(client)}, nil
}

// Value evaluates an expression at a time. A server's refusal is a *prometheusv1.Error.
func (r *Reader) Value(ctx context.Context, expr string, at time.Time) (model.Value, error) {
	value, _, err := r.api.Query(ctx, expr, at)
	return value, err
}

// Vector evaluates an expression at a time.
func (r *Reader) Vector(ctx context.Context, expr string, at time.Time) (model.Vector, error) {
	value, err := r.Value(ctx, expr, at)
	return as[model.Vector](expr, value, err)
}

// Matrix evaluates an expression at each step of a time.
func (r *Reader) Matrix(ctx context.Context, expr string, from, to time.Time, step time.Duration) (model.Matrix, error) {
	value, _, err := r.api.QueryRange(ctx, expr, prometheusv1.Range{Start: from, End: to, Step: step})
	return as[model.Matrix](expr, value, err)
}

func as[T model.Value](expr string, value model.Value, err error) (T, error) {
	var none T
	if err != nil {
		return none, fmt.Errorf("ask the monitor for %s: %w", expr, err)
	}
	list, ok := value.(T)
	if !ok {
		return none, fmt.Errorf("ask the monitor for %s: it answers with a %s", expr, value.Type())
	}
	return list, nil
}

// transport tells apart what the API server answers in the monitor's stead.
type transport struct{ http.RoundTripper }

func (t transport) RoundTrip(r *http.Request) (*http.Response, error) {
	answer, err := t.RoundTripper.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	switch answer.StatusCode {
	case http.StatusNotFound:
		err = hint.Wrap(errors.New("nothing answers at /prometheus/"), "start `gantry serve` without --no-metrics; other clusters do not have this yet")
	case http.StatusServiceUnavailable:
		err = hint.Wrap(errors.New("the monitor is starting, or has too much to do"), "try again in a moment")
	case http.StatusForbidden:
		err = hint.Wrap(errors.New("you may not ask for all samples"), "ask an administrator to bind the ClusterRole gantry-metrics-reader to you")
	default:
		return answer, nil
	}
	return nil, errors.Join(err, answer.Body.Close())
}
