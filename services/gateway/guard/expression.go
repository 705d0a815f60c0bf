package guard

import (
	"fmt"
	"sync"

	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/ext"
)

// Limits of expressions: an evaluation that costs more is stopped and refuses.
const (
	maxExpression     = 4096
	maxExpressionCost = 20_000 // about a millisecond
)

// Expression is a condition in the Common Expression Language over client, method
// (of authentication), groups, claims and request.
type Expression struct{ program cel.Program }

// environment is made when the first expression is compiled: it takes memory that
// few gateways need.
var environment = sync.OnceValues(func() (*cel.Env, error) {
	return cel.NewEnv(
		cel.Variable("client", cel.StringType),
		cel.Variable("groups", cel.ListType(cel.StringType)),
		cel.Variable("claims", cel.MapType(cel.StringType, cel.DynType)),
		cel.Variable("request", cel.MapType(cel.StringType, cel.StringType)),
		ext.Strings(),
	)
})

// Compile checks that an expression yields true or false at a bounded cost.
func Compile(text string) (*Expression, error) {
	if len(text) > maxExpression {
		return nil, fmt.Errorf("the expression has %d characters: at most %d", len(text), maxExpression)
	}
	env, err := environment()
	if err != nil {
		return nil, fmt.Errorf("prepare expressions: %w", err)
	}
	ast, issues := env.Compile(text)
	if issues.Err() != nil {
		return nil, fmt.Errorf("compile expression: %w", issues.Err())
	}
	if yields := ast.OutputType(); !yields.IsExactType(cel.BoolType) && !yields.IsExactType(cel.DynType) {
		return nil, fmt.Errorf("the expression yields %s: it must yield true or false", ast.OutputType())
	}
	program, err := env.Program(ast, cel.CostLimit(maxExpressionCost), cel.EvalOptions(cel.OptOptimize))
	if err != nil {
		return nil, fmt.Errorf("compile expression: %w", err)
	}
	return &Expression{program}, nil
}

// holds is false also when the expression fails, for instance for want of a claim.
func (e *Expression) holds(q *Request, who *Identity) bool {
	claims, groups := who.Claims, who.Groups
	if claims == nil {
		claims = map[string]any{}
	}
	if groups == nil {
		groups = []string{}
	}
	result, _, err := e.program.Eval(map[string]any{
		"client": who.Client, "groups": groups, "claims": claims,
		"request": map[string]string{"method": q.Method, "host": q.Host, "path": q.Path, "address": q.Client.Unmap().String()},
	})
	if err != nil {
		return false
	}
	yes, ok := result.Value().(bool)
	return ok && yes
}
