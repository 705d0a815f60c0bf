package apiserver

import (
	"context"
	"crypto/x509"
	"fmt"
	"net/http"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/group"
	"k8s.io/apiserver/pkg/authentication/request/anonymous"
	"k8s.io/apiserver/pkg/authentication/request/bearertoken"
	"k8s.io/apiserver/pkg/authentication/request/union"
	"k8s.io/apiserver/pkg/authentication/request/websocket"
	x509request "k8s.io/apiserver/pkg/authentication/request/x509"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	"k8s.io/kubernetes/pkg/serviceaccount"

	"github.com/gantryhq/gantry/engine/apiserver/inproc"
	"github.com/gantryhq/gantry/engine/apiserver/pki"
)

// tokenIssuer is the `iss` of service-account tokens and their default audience, upstream's
// conventional value.
const tokenIssuer = "https://kubernetes.default.svc.cluster.local"

// newTokenIssuer signs service-account tokens.
func newTokenIssuer(ca *pki.Authority) (serviceaccount.TokenGenerator, error) {
	issuer, err := serviceaccount.JWTTokenGenerator(tokenIssuer, ca.SigningKey())
	if err != nil {
		return nil, fmt.Errorf("set up token issuer: %w", err)
	}
	return issuer, nil
}

// inprocAuthenticator accepts the identity that an in-process transport carries.
var inprocAuthenticator = authenticator.RequestFunc(func(req *http.Request) (*authenticator.Response, bool, error) {
	u, ok := inproc.UserFrom(req.Context())
	if !ok {
		return nil, false, nil
	}
	return &authenticator.Response{User: u}, true, nil
})

// newAuthenticator tells who sent a request from the network: a client certificate of our
// authority, a service-account token, or nobody in particular.
func newAuthenticator(ca *pki.Authority, tokens serviceaccount.ServiceAccountTokenGetter) (authenticator.Request, error) {
	keys, err := serviceaccount.StaticPublicKeysGetter([]any{ca.SigningKey().Public()})
	if err != nil {
		return nil, fmt.Errorf("set up token authentication: %w", err)
	}
	token := serviceaccount.JWTTokenAuthenticator([]string{tokenIssuer}, keys,
		authenticator.Audiences{tokenIssuer}, serviceaccount.NewValidator(tokens))
	certificates := x509request.NewDynamic(func() (x509.VerifyOptions, bool) {
		return x509.VerifyOptions{Roots: ca.Pool(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}, true
	}, x509request.CommonNameUserConversion)
	known := group.NewAuthenticatedGroupAdder(union.New(certificates, bearertoken.New(token), websocket.NewProtocolAuthenticator(token)))
	return union.NewFailOnError(known, anonymous.NewAuthenticator(nil)), nil
}

// tokenGetter looks up, straight in storage, what a service-account token is bound to.
type tokenGetter struct{ accounts, pods, secrets, nodes rest.Getter }

// GetServiceAccount implements serviceaccount.ServiceAccountTokenGetter.
func (g tokenGetter) GetServiceAccount(ctx context.Context, namespace, name string) (*corev1.ServiceAccount, error) {
	return get(ctx, g.accounts, namespace, name, &corev1.ServiceAccount{})
}

// GetPod implements serviceaccount.ServiceAccountTokenGetter.
func (g tokenGetter) GetPod(ctx context.Context, namespace, name string) (*corev1.Pod, error) {
	return get(ctx, g.pods, namespace, name, &corev1.Pod{})
}

// GetSecret implements serviceaccount.ServiceAccountTokenGetter.
func (g tokenGetter) GetSecret(ctx context.Context, namespace, name string) (*corev1.Secret, error) {
	return get(ctx, g.secrets, namespace, name, &corev1.Secret{})
}

// GetNode implements serviceaccount.ServiceAccountTokenGetter.
func (g tokenGetter) GetNode(ctx context.Context, name string) (*corev1.Node, error) {
	return get(ctx, g.nodes, "", name, &corev1.Node{})
}

// get reads an object in its external version.
func get[T runtime.Object](ctx context.Context, from rest.Getter, namespace, name string, into T) (T, error) {
	obj, err := from.Get(request.WithNamespace(ctx, namespace), name, &metav1.GetOptions{})
	if err == nil {
		err = legacyscheme.Scheme.Convert(obj, into, nil)
	}
	return into, err
}
