package monitor

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/storage"
)

// Bounds of one query, and of how many run at once: they keep memory and processors for others.
const (
	maxSamples   = 5_000_000 // in memory at a time, 16 bytes each
	queryTimeout = 30 * time.Second
	maxQueries   = 4
	maxQuery     = 32 << 10 // bytes; it takes longer to read them the deeper they are nested
	// maxSteps is how many times a subquery may be evaluated: the engine looks at its time limit only after each series.
	maxSteps = 500_000
	// maxGrowth is how many times a label may be as long as before, by label_replace and label_join in each other.
	maxGrowth = 64
)

// parserOptions switch on nothing that Prometheus calls experimental.
var parserOptions = parser.Options{}

func newEngine(cfg *Config, metrics prometheus.Registerer) promql.QueryEngine {
	p := parser.NewParser(parserOptions)
	return &guarded{p, cfg.Interval, promql.NewEngine(promql.EngineOpts{
		Logger: cfg.Log, Reg: metrics, MaxSamples: maxSamples, Timeout: queryTimeout, ActiveQueryTracker: make(queue, maxQueries),
		NoStepSubqueryIntervalFn: func(int64) int64 { return cfg.Interval.Milliseconds() },
		EnableAtModifier:         true, EnableNegativeOffset: true, EnablePerStepStats: true,
		Parser: p,
	})}
}

// queue lets as many queries run as it has room for; further ones wait. It implements promql.QueryTracker.
type queue chan struct{}

func (q queue) GetMaxConcurrent() int { return cap(q) }

func (q queue) Insert(ctx context.Context, _ string) (int, error) {
	select {
	case q <- struct{}{}:
		return 0, nil
	case <-ctx.Done():
		return 0, errors.Join(fmt.Errorf("%d other queries run, and none of them ended in time", cap(q)), ctx.Err())
	}
}

func (q queue) Delete(int)   { <-q }
func (q queue) Close() error { return nil }

// guarded is an engine that refuses queries which would eat the machine before a limit of the engine's own ends them.
type guarded struct {
	parser   parser.Parser
	interval time.Duration // of subqueries that do not say it
	engine   *promql.Engine
}

// NewInstantQuery implements promql.QueryEngine.
func (g *guarded) NewInstantQuery(ctx context.Context, q storage.Queryable, o promql.QueryOpts, text string, at time.Time) (promql.Query, error) {
	if err := g.check(text, 0); err != nil {
		return nil, err
	}
	return g.engine.NewInstantQuery(ctx, q, o, text, at)
}

// NewRangeQuery implements promql.QueryEngine.
func (g *guarded) NewRangeQuery(ctx context.Context, q storage.Queryable, o promql.QueryOpts, text string, start, end time.Time, step time.Duration) (promql.Query, error) {
	if err := g.check(text, end.Sub(start)); err != nil {
		return nil, err
	}
	return g.engine.NewRangeQuery(ctx, q, o, text, start, end, step)
}

// check says why a query for a span of time is refused.
func (g *guarded) check(text string, span time.Duration) error {
	if len(text) > maxQuery {
		return fmt.Errorf("the query has %d bytes, more than %d", len(text), maxQuery)
	}
	expr, err := g.parser.ParseExpr(text)
	if err != nil {
		return err
	}
	_, err = g.walk(expr, span)
	return err
}

// walk looks at a part of a query that is evaluated for a span of time, and returns how much longer labels may become in it.
func (g *guarded) walk(node parser.Node, span time.Duration) (growth float64, err error) {
	factor := 1.0
	switch n := node.(type) {
	case *parser.SubqueryExpr:
		span += n.Range
		step := n.Step
		if step == 0 {
			step = g.interval
		}
		if steps := int64(span / step); steps > maxSteps {
			return 0, fmt.Errorf("a subquery of %s by %s is evaluated %d times, more than %d: ask for a shorter time or longer steps", n.Range, step, steps, maxSteps)
		}
	case *parser.Call:
		factor = growthOf(n)
	}
	growth = 1
	for child := range parser.ChildrenIter(node) {
		of, err := g.walk(child, span)
		if err != nil {
			return 0, err
		}
		growth = max(growth, of)
	}
	if growth *= factor; growth > maxGrowth {
		return 0, fmt.Errorf("label_replace and label_join in each other make labels %.0f times as long, more than %d times", growth, maxGrowth)
	}
	return growth, nil
}

// growthOf is how much longer a function can make a label.
func growthOf(c *parser.Call) float64 {
	switch c.Func.Name {
	case "label_join":
		return math.Max(1, float64(len(c.Args)-3))
	case "label_replace":
		return math.Max(1, float64(strings.Count(c.Args[2].String(), "$")))
	}
	return 1
}
