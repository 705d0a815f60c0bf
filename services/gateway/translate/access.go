package translate

import (
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/gantryhq/gantry/api/v1alpha1"
	"github.com/gantryhq/gantry/services/gateway/guard"
)

// part is a compiled field of a policy, or why it cannot be applied. The zero value
// is a field that is not set.
type part[T any] struct {
	value *T
	err   error
}

func (p part[T]) set() bool { return p.value != nil || p.err != nil }

// accessParts is a compiled AccessPolicy.
type accessParts struct {
	policy string
	spec   v1alpha1.AccessPolicySpec
	needs  string // versions of the Secrets and ConfigMaps it was compiled with

	addresses      part[guard.Addresses]
	authentication part[guard.Authentication]
	authorization  part[guard.Authorization]
}

func (a *accessParts) problem() error {
	return joined(a.addresses.err, a.authentication.err, a.authorization.err)
}

// joined is one error of several, in one line.
func joined(errs ...error) error {
	if err := errors.Join(errs...); err != nil {
		return errors.New(strings.ReplaceAll(err.Error(), "\n", "; "))
	}
	return nil
}

func (a *accessParts) merge(r *guard.Rules, use func(field, policy string, err error)) {
	put(&r.Addresses, a.addresses, func(err error) { use("addresses", a.policy, err) })
	put(&r.Authentication, a.authentication, func(err error) { use("authentication", a.policy, err) })
	put(&r.Authorization, a.authorization, func(err error) { use("authorization", a.policy, err) })
}

// compileAccess compiles a policy, unless neither it nor what it refers to changed.
func (t *translation) compileAccess(o *v1alpha1.AccessPolicy) *accessParts {
	a := &accessParts{policy: "AccessPolicy/" + o.Namespace + "/" + o.Name, spec: o.Spec, needs: t.accessNeeds(o)}
	if before := t.cache.access[nameOf(o)]; before != nil && before.needs == a.needs && reflect.DeepEqual(before.spec, o.Spec) {
		return before
	}
	if o.Spec.Addresses != nil {
		a.addresses.value, a.addresses.err = compileAddresses(a.policy, o.Spec.Addresses)
	}
	if o.Spec.Authentication != nil {
		a.authentication.value, a.authentication.err = t.compileAuthentication(a.policy, o.Namespace, o.Spec.Authentication)
	}
	if o.Spec.Authorization != nil {
		a.authorization.value, a.authorization.err = compileAuthorization(a.policy, o.Spec.Authorization)
	}
	return a
}

// accessNeeds are the versions of everything that a policy refers to.
func (t *translation) accessNeeds(o *v1alpha1.AccessPolicy) string {
	var versions []string
	auth := o.Spec.Authentication
	if auth == nil {
		return ""
	}
	if auth.APIKeys != nil {
		secrets, _ := t.keySecrets(o.Namespace, auth.APIKeys)
		for _, s := range secrets {
			versions = append(versions, versionOf(s))
		}
	}
	var names []string
	if auth.Basic != nil {
		names = append(names, auth.Basic.SecretName)
	}
	if auth.OIDC != nil {
		names = append(names, auth.OIDC.SecretName)
	}
	for _, name := range names {
		if s, err := t.credential(o.Namespace, name); err == nil {
			versions = append(versions, versionOf(s))
		}
	}
	for _, j := range auth.JWT {
		if m := t.configMap(o.Namespace, j.JWKSConfigMap); m != nil {
			versions = append(versions, versionOf(m))
		}
	}
	return strings.Join(versions, " ")
}

func compileAddresses(policy string, spec *v1alpha1.AddressRules) (a *guard.Addresses, err error) {
	a = &guard.Addresses{Policy: policy}
	if a.Allow, err = prefixes(spec.Allow); err != nil {
		return nil, fmt.Errorf("addresses.allow: %w", err)
	}
	if a.Deny, err = prefixes(spec.Deny); err != nil {
		return nil, fmt.Errorf("addresses.deny: %w", err)
	}
	return a, nil
}

// prefixes parses networks and single addresses.
func prefixes(texts []string) ([]netip.Prefix, error) {
	var list []netip.Prefix
	for _, text := range texts {
		if address, err := netip.ParseAddr(text); err == nil {
			address = address.Unmap()
			list = append(list, netip.PrefixFrom(address, address.BitLen()))
			continue
		}
		p, err := netip.ParsePrefix(text)
		if err != nil {
			return nil, fmt.Errorf("%q is neither an address nor a network such as 10.0.0.0/8", text)
		}
		list = append(list, p.Masked())
	}
	return list, nil
}

func (t *translation) compileAuthentication(policy, namespace string, spec *v1alpha1.Authentication) (*guard.Authentication, error) {
	a := &guard.Authentication{Policy: policy, Anonymous: spec.Anonymous, ClientField: string(spec.ClientHeader)}
	var err error
	if spec.APIKeys != nil {
		if a.Keys, err = t.compileKeys(namespace, spec.APIKeys, a.ClientField); err != nil {
			return nil, fmt.Errorf("authentication.apiKeys: %w", err)
		}
	}
	for i := range spec.JWT {
		tokens, err := t.compileTokens(namespace, &spec.JWT[i], a.ClientField)
		if err != nil {
			return nil, fmt.Errorf("authentication.jwt %q: %w", spec.JWT[i].Name, err)
		}
		a.Tokens = append(a.Tokens, tokens)
	}
	if spec.Basic != nil {
		secret, err := t.credential(namespace, spec.Basic.SecretName)
		if err != nil {
			return nil, fmt.Errorf("authentication.basic: %w", err)
		}
		if a.Basic, err = guard.NewBasic(secret.Data["htpasswd"], a.ClientField); err != nil {
			return nil, fmt.Errorf("authentication.basic: entry htpasswd of Secret %s/%s: %w", namespace, secret.Name, err)
		}
		a.Basic.Forward = spec.Basic.Forward
	}
	if spec.OIDC != nil {
		if a.Login, err = t.compileLogin(policy, namespace, spec.OIDC, a.ClientField); err != nil {
			return nil, fmt.Errorf("authentication.oidc: %w", err)
		}
	}
	a.Seal()
	return a, nil
}

// keySecrets are the Secrets with API keys, in the order of their names.
func (t *translation) keySecrets(namespace string, spec *v1alpha1.APIKeys) ([]*corev1.Secret, error) {
	var secrets []*corev1.Secret
	for _, name := range spec.SecretNames {
		s, err := t.credential(namespace, name)
		if err != nil {
			return nil, err
		}
		secrets = append(secrets, s)
	}
	if spec.SecretSelector != nil && t.Credentials != nil {
		selector, err := metav1.LabelSelectorAsSelector(spec.SecretSelector)
		if err != nil {
			return nil, fmt.Errorf("secretSelector: %w", err)
		}
		for _, s := range t.Credentials(namespace) {
			if selector.Matches(labels.Set(s.Labels)) && !slices.Contains(secrets, s) {
				secrets = append(secrets, s)
			}
		}
	}
	slices.SortFunc(secrets, func(a, b *corev1.Secret) int { return strings.Compare(a.Name, b.Name) })
	return secrets, nil
}

func (t *translation) compileKeys(namespace string, spec *v1alpha1.APIKeys, field string) (*guard.Keys, error) {
	k := &guard.Keys{Parameters: spec.QueryParameters, Forward: spec.Forward}
	for _, h := range spec.Headers {
		k.Headers = append(k.Headers, string(h))
	}
	if len(k.Headers)+len(k.Parameters) == 0 {
		k.Headers = []string{"X-API-Key"}
	}
	secrets, err := t.keySecrets(namespace, spec)
	if err != nil {
		return nil, err
	}
	for _, s := range secrets {
		for _, client := range sortedKeys(s.Data) {
			// A final newline is of the file that the Secret was made from.
			if err := k.Add(client, strings.TrimRight(string(s.Data[client]), "\r\n"), field); err != nil {
				return nil, fmt.Errorf("Secret %s/%s: %w", namespace, s.Name, err)
			}
		}
	}
	if k.Len() == 0 {
		return nil, fmt.Errorf("no Secret of type %s in namespace %s has a key for it", CredentialsType, namespace)
	}
	return k, nil
}

func (t *translation) compileTokens(namespace string, spec *v1alpha1.JWTIssuer, field string) (*guard.Tokens, error) {
	j := &guard.Tokens{
		Name: spec.Name, Issuer: spec.Issuer, Audiences: spec.Audiences, Algorithms: spec.Algorithms,
		ClientClaim: spec.ClientClaim, GroupsClaim: spec.GroupsClaim, ClientField: field, Forward: deref(spec.Forward, true),
	}
	for _, c := range spec.ClaimHeaders {
		j.ClaimFields = append(j.ClaimFields, guard.ClaimField{Claim: c.Claim, Name: string(c.Header)})
	}
	var err error
	if j.Skew, err = durationOr(spec.ClockSkew, 30*time.Second, 0, 10*time.Minute); err != nil {
		return nil, fmt.Errorf("clockSkew: %w", err)
	}
	refresh, err := durationOr(spec.Refresh, 5*time.Minute, 10*time.Second, 24*time.Hour)
	if err != nil {
		return nil, fmt.Errorf("refresh: %w", err)
	}
	switch {
	case spec.JWKSURL != "":
		j.Keys = guard.NewRemoteKeySet(spec.JWKSURL, refresh)
	case spec.JWKSConfigMap != "":
		m := t.configMap(namespace, spec.JWKSConfigMap)
		if m == nil || m.Data[KeysEntry] == "" {
			return nil, fmt.Errorf("ConfigMap %s/%s with the entry %s does not exist", namespace, spec.JWKSConfigMap, KeysEntry)
		}
		if j.Keys, err = guard.NewKeySet([]byte(m.Data[KeysEntry])); err != nil {
			return nil, fmt.Errorf("ConfigMap %s/%s: %w", namespace, spec.JWKSConfigMap, err)
		}
	default:
		if j.Keys, err = guard.NewKeySet([]byte(spec.JWKS)); err != nil {
			return nil, fmt.Errorf("jwks: %w", err)
		}
	}
	j.Seal()
	return j, nil
}

// KeysEntry is the entry of a ConfigMap that holds a JSON Web Key Set.
const KeysEntry = "jwks.json"

func (t *translation) configMap(namespace, name string) *corev1.ConfigMap {
	if t.ConfigMap == nil || name == "" {
		return nil
	}
	return t.ConfigMap(types.NamespacedName{Namespace: namespace, Name: name})
}

func durationOr(d *gatewayv1.Duration, otherwise, least, most time.Duration) (time.Duration, error) {
	if d == nil {
		return otherwise, nil
	}
	v, err := duration(d)
	if err == nil && (v < least || v > most) {
		err = fmt.Errorf("%s is not between %s and %s", v, least, most)
	}
	return v, err
}

func compileAuthorization(policy string, spec *v1alpha1.Authorization) (*guard.Authorization, error) {
	a := &guard.Authorization{Policy: policy}
	for i, r := range spec.Rules {
		p := guard.Permission{Clients: r.Clients, Groups: r.Groups, Methods: r.Methods}
		for _, c := range r.Claims {
			p.Claims = append(p.Claims, guard.ClaimValues{Claim: c.Claim, Values: c.Values})
		}
		if r.Expression != "" {
			var err error
			if p.Expression, err = guard.Compile(r.Expression); err != nil {
				return nil, fmt.Errorf("authorization.rules[%d]: %w", i, err)
			}
		}
		a.Rules = append(a.Rules, p)
	}
	return a, nil
}
