package pipeline

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/gantryhq/gantry/api/v1alpha1"
)

// hookPrefix begins the addresses of webhooks.
const hookPrefix = "/.gantry/hooks/"

// HookPath is the path of a Pipeline's webhook, at the gateway.
func HookPath(namespace, name string) string { return hookPrefix + namespace + "/" + name }

const (
	maxHookBody   = 5 << 20
	hooksAtOnce   = 16
	hookReadLimit = 10 * time.Second
)

// delivery is what a webhook tells.
type delivery struct {
	push bool
	ref  string
}

var errForged = errors.New("the signature or token is not right")

// verify says what a delivery tells, when it comes from who knows the secret:
//
//   - GitHub signs the body in X-Hub-Signature-256
//     (https://docs.github.com/webhooks/using-webhooks/validating-webhook-deliveries)
//   - Gitea and Forgejo sign it in X-Gitea-Signature (https://docs.gitea.com/usage/webhooks)
//   - GitLab sends the secret itself in X-Gitlab-Token (https://docs.gitlab.com/user/project/integrations/webhooks/)
func verify(provider string, secret []byte, h http.Header, body []byte) (delivery, error) {
	if len(secret) == 0 {
		return delivery{}, errForged // an empty secret would be everybody's
	}
	var event, push string
	switch provider {
	case "GitHub":
		given, ok := strings.CutPrefix(h.Get("X-Hub-Signature-256"), "sha256=")
		if !ok || !signed(secret, body, given) {
			return delivery{}, errForged
		}
		event, push = h.Get("X-GitHub-Event"), "push"
	case "Gitea":
		if !signed(secret, body, h.Get("X-Gitea-Signature")) {
			return delivery{}, errForged
		}
		event, push = h.Get("X-Gitea-Event"), "push"
	case "GitLab":
		given, want := sha256.Sum256([]byte(h.Get("X-Gitlab-Token"))), sha256.Sum256(secret)
		if subtle.ConstantTimeCompare(given[:], want[:]) != 1 {
			return delivery{}, errForged
		}
		event, push = h.Get("X-Gitlab-Event"), "Push Hook"
	default:
		return delivery{}, errForged
	}
	if event != push {
		return delivery{}, nil
	}
	var payload struct {
		Ref string `json:"ref"`
	}
	if err := json.Unmarshal(body, &payload); err != nil {
		return delivery{}, fmt.Errorf("the body is not JSON: %w", err)
	}
	return delivery{push: true, ref: payload.Ref}, nil
}

func signed(secret, body []byte, hexSignature string) bool {
	given, err := hex.DecodeString(hexSignature)
	if err != nil {
		return false
	}
	mac := hmac.New(sha256.New, secret)
	mac.Write(body)
	return hmac.Equal(given, mac.Sum(nil))
}

// hookServer answers webhooks.
type hookServer struct {
	service *Service
	ctx     context.Context // of what a webhook starts
	slots   chan struct{}
}

// ServeHTTP answers 202 when the repository is being looked at, 200 to what needs
// nothing, 403 to who does not know the secret, whether the Pipeline exists or not.
func (h *hookServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	namespace, name, ok := strings.Cut(strings.TrimPrefix(r.URL.Path, hookPrefix), "/")
	if !ok || !strings.HasPrefix(r.URL.Path, hookPrefix) {
		http.NotFound(w, r)
		return
	}
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		http.Error(w, "a webhook is sent with POST", http.StatusMethodNotAllowed)
		return
	}
	select {
	case h.slots <- struct{}{}:
		defer func() { <-h.slots }()
	default:
		w.Header().Set("Retry-After", "1")
		http.Error(w, "too many webhooks at a time", http.StatusTooManyRequests)
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxHookBody))
	if err != nil {
		http.Error(w, "the body is too large or incomplete", http.StatusRequestEntityTooLarge)
		return
	}
	p, secret := h.pipeline(r.Context(), namespace, name)
	if p == nil {
		http.Error(w, errForged.Error(), http.StatusForbidden)
		return
	}
	d, err := verify(p.Spec.Triggers.Webhook.Provider, secret, r.Header, body)
	switch {
	case errors.Is(err, errForged):
		http.Error(w, err.Error(), http.StatusForbidden)
	case err != nil:
		http.Error(w, err.Error(), http.StatusBadRequest)
	case !d.push || d.ref != "refs/heads/"+p.Spec.Source.Branch || p.Spec.Suspend:
		fmt.Fprintln(w, "nothing to do")
	default:
		h.service.look(h.ctx, p, "Webhook")
		w.WriteHeader(http.StatusAccepted)
		fmt.Fprintln(w, "looking for new commits")
	}
}

// pipeline finds a Pipeline with a webhook and its secret, or nil.
func (h *hookServer) pipeline(ctx context.Context, namespace, name string) (*v1alpha1.Pipeline, []byte) {
	o, ok, err := h.service.pipelines.GetStore().GetByKey(namespace + "/" + name)
	if err != nil || !ok {
		return nil, nil
	}
	p := o.(*v1alpha1.Pipeline)
	if p.Spec.Triggers.Webhook == nil {
		return nil, nil
	}
	secret, err := h.service.kube.CoreV1().Secrets(namespace).Get(ctx, p.Spec.Triggers.Webhook.SecretName, metav1.GetOptions{})
	if err != nil {
		return nil, nil
	}
	return p, secret.Data["secret"]
}
