package ruleset

import (
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"
)

func object(t *testing.T, text string) *unstructured.Unstructured {
	t.Helper()
	o := &unstructured.Unstructured{}
	if err := yaml.Unmarshal([]byte(text), &o.Object); err != nil {
		t.Fatal(err)
	}
	return o
}

func TestAPrometheusRuleIsReadAsTheOperatorReadsIt(t *testing.T) {
	f, err := FromObject(object(t, `
metadata: {namespace: shop, name: cart}
spec:
  groups:
  - name: cart
    interval: 15s
    partial_response_strategy: warn
    labels: {team: basket}
    rules:
    - record: cart:requests:rate5m
      expr: rate(requests_total[5m])
    - alert: Always
      expr: 1
      for: 1m
      keep_firing_for: 5m
      annotations: {summary: "{{ $labels.pod }}"}
`))
	if err != nil {
		t.Fatal(err)
	}
	if f.Name != "shop/cart" || len(f.Groups) != 1 || len(f.Groups[0].Rules) != 2 || f.Groups[0].Rules[1].Expr != "1" {
		t.Errorf("read as %+v", f)
	}
}

func TestAFaultNamesItsRule(t *testing.T) {
	for what, rules := range map[string]string{
		"no such function":    `[{alert: Bad, expr: "nosuch(up)"}]`,
		"unclosed template":   `[{alert: Bad, expr: up, annotations: {summary: "{{ $labels.pod"}}]`,
		"neither":             `[{expr: up}]`,
		"recorded name":       `[{record: "a b{", expr: up}]`,
		"duration":            `[{alert: Bad, expr: up, for: soon}]`,
		"expression is a map": `[{alert: Bad, expr: {a: b}}]`,
		"nested for minutes":  `[{alert: Bad, expr: "` + strings.Repeat("(", 400_000) + "1" + strings.Repeat(")", 400_000) + `"}]`,
	} {
		_, err := FromObject(object(t, "metadata: {namespace: shop, name: cart}\nspec: {groups: [{name: cart, rules: "+rules+"}]}"))
		if err == nil || !strings.Contains(err.Error(), "shop/cart") {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func TestConfinedRulesSeeTheirNamespaceOnly(t *testing.T) {
	f, err := FromObject(object(t, `
metadata: {namespace: shop, name: spy}
spec:
  groups:
  - name: spy
    labels: {namespace: bank}
    rules:
    - {record: stolen, expr: 'sum by (pod) (rate(up{namespace="bank"}[5m])) / on (pod) group_left max_over_time(secret[1h:1m]) or vector(1)', labels: {namespace: bank}}
`))
	if err != nil {
		t.Fatal(err)
	}
	if f, err = f.Confined("shop"); err != nil {
		t.Fatal(err)
	}
	r := f.Groups[0].Rules[0]
	want := `sum by (pod) (rate(up{namespace="bank",namespace="shop"}[5m])) / on (pod) group_left () max_over_time(secret{namespace="shop"}[1h:1m]) or vector(1)`
	if r.Expr != want || r.Labels["namespace"] != "shop" || f.Groups[0].Labels["namespace"] != "shop" {
		t.Errorf("confined to %s with %v", r.Expr, r.Labels)
	}
	if ConfinedTo(f.Name) != "shop" || ConfinedTo("gantry/pods.yaml") != "" || ConfinedTo("cluster/namespace/x") != "" {
		t.Errorf("%s is not told apart", f.Name)
	}
}

func TestAnIntervalThatIsTooShortIsRefused(t *testing.T) {
	_, err := FromObject(object(t, "metadata: {namespace: shop, name: a}\nspec: {groups: [{name: a, interval: 1s, rules: []}]}"))
	if err == nil || !strings.Contains(err.Error(), "interval") {
		t.Error(err)
	}
}
