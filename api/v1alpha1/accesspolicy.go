package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// AccessPolicy says who may use what the gateway serves.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:metadata:labels="gateway.networking.k8s.io/policy=Inherited"
// +kubebuilder:resource:categories=gantry
// +kubebuilder:printcolumn:name=Accepted,type=string,JSONPath=`.status.ancestors[0].conditions[?(@.type=="Accepted")].status`
// +kubebuilder:printcolumn:name=Age,type=date,JSONPath=`.metadata.creationTimestamp`
type AccessPolicy struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   AccessPolicySpec       `json:"spec"`
	Status gatewayv1.PolicyStatus `json:"status,omitempty"`
}

// AccessPolicySpec says what applies to which targets.
type AccessPolicySpec struct {
	// TargetRefs name what the policy applies to: a Gateway, a route, an Ingress, or the Namespace it is in.
	//
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=16
	TargetRefs []gatewayv1.LocalPolicyTargetReferenceWithSectionName `json:"targetRefs"`

	// Override makes the fields of this policy hold against those of more specific ones,
	// which otherwise take their place. Of two that override, the less specific one wins.
	Override bool `json:"override,omitempty"`

	// Addresses says which clients may come in at all, by their address.
	Addresses *AddressRules `json:"addresses,omitempty"`

	// Authentication says how clients prove who they are.
	Authentication *Authentication `json:"authentication,omitempty"`

	// Authorization says what they may do then.
	Authorization *Authorization `json:"authorization,omitempty"`
}

// AddressRules are networks of clients. Behind proxies that the gateway trusts it is
// the address that they report.
type AddressRules struct {
	// Allow lists the networks that may come in; empty is all.
	//
	// +kubebuilder:validation:MaxItems=256
	Allow []string `json:"allow,omitempty"`

	// Deny lists networks that may not, also where Allow has them.
	//
	// +kubebuilder:validation:MaxItems=256
	Deny []string `json:"deny,omitempty"`
}

// Authentication lists the ways to prove who one is. Any one will do.
//
// +kubebuilder:validation:XValidation:message="name at least one way: apiKeys, jwt, basic, oidc, or anonymous: true",rule="has(self.apiKeys) || has(self.jwt) || has(self.basic) || has(self.oidc) || (has(self.anonymous) && self.anonymous)"
type Authentication struct {
	// Anonymous lets requests without any credential in. Wrong ones are refused still.
	Anonymous bool `json:"anonymous,omitempty"`

	// APIKeys are keys of programs, each with a name.
	APIKeys *APIKeys `json:"apiKeys,omitempty"`

	// JWT are issuers of JSON Web Tokens, which come in Authorization: Bearer.
	//
	// +kubebuilder:validation:MaxItems=8
	// +listType=map
	// +listMapKey=name
	JWT []JWTIssuer `json:"jwt,omitempty"`

	// Basic are users with passwords.
	Basic *BasicUsers `json:"basic,omitempty"`

	// OIDC sends people with browsers to an OpenID Connect provider to log in.
	OIDC *OIDCLogin `json:"oidc,omitempty"`

	// ClientHeader tells backends who the client is: the name of an API key or user,
	// a token's subject. The client's own header of this name is removed.
	ClientHeader HeaderName `json:"clientHeader,omitempty"`
}

// HeaderName is the name of a header field.
//
// +kubebuilder:validation:MaxLength=64
// +kubebuilder:validation:Pattern=`^[A-Za-z0-9-]+$`
type HeaderName string

// APIKeys are in Secrets of type gantry.dev/credentials, in the policy's namespace:
// each entry is a client's name and its key, or sha256: and the key's digest in
// hexadecimal digits.
//
// +kubebuilder:validation:XValidation:message="name the Secrets with the keys: secretNames or secretSelector",rule="has(self.secretNames) || has(self.secretSelector)"
type APIKeys struct {
	// SecretNames are Secrets by name.
	//
	// +kubebuilder:validation:MaxItems=64
	SecretNames []string `json:"secretNames,omitempty"`

	// SecretSelector are Secrets by label.
	SecretSelector *metav1.LabelSelector `json:"secretSelector,omitempty"`

	// Headers that may hold the key; without any place, X-API-Key.
	//
	// +kubebuilder:validation:MaxItems=8
	Headers []HeaderName `json:"headers,omitempty"`

	// QueryParameters that may hold the key. They end up in logs of others: prefer headers.
	//
	// +kubebuilder:validation:MaxItems=8
	QueryParameters []string `json:"queryParameters,omitempty"`

	// Forward lets backends see the header with the key.
	Forward bool `json:"forward,omitempty"`
}

// JWTIssuer is an issuer of JSON Web Tokens, signed with its private key.
//
// +kubebuilder:validation:XValidation:message="name one source of keys: jwksURL, jwks or jwksConfigMap",rule="(has(self.jwksURL) ? 1 : 0) + (has(self.jwks) ? 1 : 0) + (has(self.jwksConfigMap) ? 1 : 0) == 1"
type JWTIssuer struct {
	// Name of this issuer in the policy.
	//
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	Name string `json:"name"`

	// Issuer is what tokens have as iss.
	//
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=512
	Issuer string `json:"issuer"`

	// Audiences of which a token must have one as aud; empty is any.
	//
	// +kubebuilder:validation:MaxItems=16
	Audiences []string `json:"audiences,omitempty"`

	// JWKSURL is where the issuer publishes its keys.
	//
	// +kubebuilder:validation:Pattern=`^https?://[^/]`
	// +kubebuilder:validation:MaxLength=1024
	JWKSURL string `json:"jwksURL,omitempty"`

	// JWKS are the keys, as a JSON Web Key Set.
	//
	// +kubebuilder:validation:MaxLength=65536
	JWKS string `json:"jwks,omitempty"`

	// JWKSConfigMap has them under the key jwks.json, in the policy's namespace.
	JWKSConfigMap string `json:"jwksConfigMap,omitempty"`

	// Refresh is how often JWKSURL is read again. A token with an unknown key has it
	// read at once, at most every 10 s.
	//
	// +kubebuilder:default="5m"
	Refresh *gatewayv1.Duration `json:"refresh,omitempty"`

	// Algorithms that signatures may have; empty is all that are asymmetric.
	//
	// +kubebuilder:validation:MaxItems=10
	// +kubebuilder:validation:items:Enum=RS256;RS384;RS512;PS256;PS384;PS512;ES256;ES384;ES512;EdDSA
	Algorithms []string `json:"algorithms,omitempty"`

	// ClockSkew is how far the issuer's clock may differ.
	//
	// +kubebuilder:default="30s"
	ClockSkew *gatewayv1.Duration `json:"clockSkew,omitempty"`

	// ClientClaim names the client.
	//
	// +kubebuilder:default=sub
	ClientClaim string `json:"clientClaim,omitempty"`

	// GroupsClaim names its groups. Dots lead into claims that are objects.
	//
	// +kubebuilder:default=groups
	GroupsClaim string `json:"groupsClaim,omitempty"`

	// ClaimHeaders tell backends claims. The client's own headers of these names are removed.
	//
	// +kubebuilder:validation:MaxItems=16
	ClaimHeaders []ClaimHeader `json:"claimHeaders,omitempty"`

	// Forward lets backends see the token.
	//
	// +kubebuilder:default=true
	Forward *bool `json:"forward,omitempty"`
}

// ClaimHeader is a header with the value of a claim.
type ClaimHeader struct {
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=128
	Claim string `json:"claim"`

	Header HeaderName `json:"header"`
}

// BasicUsers are in a Secret of type gantry.dev/credentials under the key htpasswd:
// lines of name:hash, with bcrypt or {SHA}.
type BasicUsers struct {
	// +kubebuilder:validation:MinLength=1
	SecretName string `json:"secretName"`

	// Forward lets backends see the credential.
	Forward bool `json:"forward,omitempty"`
}

// OIDCLogin is a login at an OpenID Connect provider, with the authorization code flow
// and PKCE. Who is logged in is kept in an encrypted cookie.
type OIDCLogin struct {
	// Issuer is the provider's address, where it publishes its configuration.
	//
	// +kubebuilder:validation:Pattern=`^https?://[^/]`
	// +kubebuilder:validation:MaxLength=512
	Issuer string `json:"issuer"`

	// ClientID of this login at the provider, which must know the address
	// https://HOST/oauth2/callback for it.
	//
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=256
	ClientID string `json:"clientID"`

	// SecretName is a Secret of type gantry.dev/credentials with the entries
	// cookie-secret (32 random bytes or more) and client-secret, unless the client has none.
	//
	// +kubebuilder:validation:MinLength=1
	SecretName string `json:"secretName"`

	// Scopes beside openid.
	//
	// +kubebuilder:validation:MaxItems=16
	Scopes []string `json:"scopes,omitempty"`

	// CallbackPath is where the provider sends browsers back to.
	//
	// +kubebuilder:validation:Pattern=`^/[A-Za-z0-9/_-]+$`
	// +kubebuilder:default=/oauth2/callback
	CallbackPath string `json:"callbackPath,omitempty"`

	// LogoutPath ends the session, for pages of the same site.
	//
	// +kubebuilder:validation:Pattern=`^/[A-Za-z0-9/_-]+$`
	// +kubebuilder:default=/oauth2/logout
	LogoutPath string `json:"logoutPath,omitempty"`

	// Session is how long a login lasts at most.
	//
	// +kubebuilder:default="8h"
	Session *gatewayv1.Duration `json:"session,omitempty"`

	// ClientClaim names the client.
	//
	// +kubebuilder:default=sub
	ClientClaim string `json:"clientClaim,omitempty"`

	// GroupsClaim names its groups.
	//
	// +kubebuilder:default=groups
	GroupsClaim string `json:"groupsClaim,omitempty"`

	// ClaimHeaders tell backends claims. The client's own headers of these names are removed.
	//
	// +kubebuilder:validation:MaxItems=16
	ClaimHeaders []ClaimHeader `json:"claimHeaders,omitempty"`

	// AccessTokenHeader tells backends the access token.
	AccessTokenHeader HeaderName `json:"accessTokenHeader,omitempty"`
}

// Authorization lists what is allowed. One rule must allow a request.
type Authorization struct {
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=32
	Rules []Permission `json:"rules"`
}

// Permission allows a request if everything that it names holds; of each list, one entry.
type Permission struct {
	// Clients by name.
	//
	// +kubebuilder:validation:MaxItems=256
	Clients []string `json:"clients,omitempty"`

	// Groups of the client.
	//
	// +kubebuilder:validation:MaxItems=256
	Groups []string `json:"groups,omitempty"`

	// Claims of the client's token.
	//
	// +kubebuilder:validation:MaxItems=16
	Claims []ClaimValues `json:"claims,omitempty"`

	// Methods of HTTP.
	//
	// +kubebuilder:validation:MaxItems=16
	Methods []string `json:"methods,omitempty"`

	// Expression is a condition in the Common Expression Language over client, groups,
	// claims and request (method, host, path, address).
	//
	// +kubebuilder:validation:MaxLength=4096
	Expression string `json:"expression,omitempty"`
}

// ClaimValues holds if the claim is one of the values, or has one in its list or words.
type ClaimValues struct {
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=128
	Claim string `json:"claim"`

	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=64
	Values []string `json:"values"`
}

// AccessPolicyList is a list of them.
//
// +kubebuilder:object:root=true
type AccessPolicyList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`

	Items []AccessPolicy `json:"items"`
}
