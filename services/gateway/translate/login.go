package translate

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/gantryhq/gantry/api/v1alpha1"
	"github.com/gantryhq/gantry/services/gateway/guard"
)

func (t *translation) compileLogin(policy, namespace string, spec *v1alpha1.OIDCLogin, field string) (*guard.Login, error) {
	secret, err := t.credential(namespace, spec.SecretName)
	if err != nil {
		return nil, err
	}
	j := &guard.Tokens{
		Name: "oidc", Issuer: spec.Issuer, Audiences: []string{spec.ClientID}, Skew: 30 * time.Second,
		ClientClaim: spec.ClientClaim, GroupsClaim: spec.GroupsClaim, ClientField: field,
		Keys: guard.NewRemoteKeySet(strings.TrimSuffix(spec.Issuer, "/")+guard.DiscoveryPath, 5*time.Minute),
	}
	for _, c := range spec.ClaimHeaders {
		j.ClaimFields = append(j.ClaimFields, guard.ClaimField{Claim: c.Claim, Name: string(c.Header)})
	}
	j.Seal()
	l := &guard.Login{
		Policy: policy, Tokens: j, ClientID: spec.ClientID, ClientSecret: strings.TrimRight(string(secret.Data["client-secret"]), "\r\n"),
		Scopes:       append([]string{"openid"}, slices.DeleteFunc(slices.Clone(spec.Scopes), func(s string) bool { return s == "openid" })...),
		CallbackPath: cmp.Or(spec.CallbackPath, "/oauth2/callback"), LogoutPath: cmp.Or(spec.LogoutPath, "/oauth2/logout"),
		AccessTokenField: string(spec.AccessTokenHeader),
	}
	if l.Session, err = durationOr(spec.Session, 8*time.Hour, time.Minute, 30*24*time.Hour); err != nil {
		return nil, fmt.Errorf("session: %w", err)
	}
	if err := l.Seal(secret.Data["cookie-secret"]); err != nil {
		return nil, fmt.Errorf("entry cookie-secret of Secret %s/%s: %w", namespace, secret.Name, err)
	}
	return l, nil
}
