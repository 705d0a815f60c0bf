package node

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/gantryhq/gantry/test/instance"
)

const (
	rightPassword = "correct-horse-battery"
	wrongPassword = "wrong-donkey-staple"
)

// privateRegistry asks for a password in front of the instance's registry.
func privateRegistry(t *testing.T, behind string) (host string) {
	proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: behind})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user, password, _ := r.BasicAuth(); user != "ada" || password != rightPassword {
			w.Header().Set("WWW-Authenticate", `Basic realm="private"`)
			http.Error(w, `{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}`, http.StatusUnauthorized)
			return
		}
		r.Header.Del("Authorization") // it is for this registry, and the one behind has logins of its own
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	return strings.TrimPrefix(server.URL, "http://")
}

// TestPrivateRegistry: a pod gets the image of a registry that asks for a
// password only with a pull secret, its own or its service account's, and no
// password is told to anybody.
func TestPrivateRegistry(t *testing.T) {
	c := start(t, instance.Options{})
	c.BaseImages(t)
	host := privateRegistry(t, c.Registry)
	image := host + "/base/busybox:latest"
	sleeper := func(podName string, secrets ...string) *v1.Pod {
		p := pod(podName, image, "sleep", "infinity")
		p.Spec.Containers[0].ImagePullPolicy = v1.PullAlways
		for _, s := range secrets {
			p.Spec.ImagePullSecrets = append(p.Spec.ImagePullSecrets, v1.LocalObjectReference{Name: s})
		}
		return p
	}
	c.pullSecret("right", host, rightPassword)
	c.pullSecret("wrong", host, wrongPassword)

	c.create(sleeper("without"))
	c.create(sleeper("mistaken", "wrong"))
	c.create(sleeper("absent", "no-such-secret"))
	for _, name := range []string{"without", "mistaken", "absent"} {
		p := c.until(name, "refused its image", func(p *v1.Pod) bool { return strings.Contains(waiting(p).Reason, "ImagePull") })
		c.untilEvent(name, "registry "+host+" refuses access: the repository is private or the credentials are wrong")
		c.until(name, "told why", func(p *v1.Pod) bool { return strings.Contains(waiting(p).Message, "refuses access") })
		c.keepsSecrets(p)
	}
	c.untilEvent("absent", "no-such-secret")

	c.create(sleeper("own", "right"))
	c.until("own", "running", running)
	c.create(sleeper("tries-both", "wrong", "right"))
	c.until("tries-both", "running", running)

	account := &v1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "puller"}, ImagePullSecrets: []v1.LocalObjectReference{{Name: "right"}}}
	_, err := c.client.CoreV1().ServiceAccounts(namespace).Create(t.Context(), account, metav1.CreateOptions{})
	check(t, err)
	p := sleeper("by-account")
	p.Spec.ServiceAccountName = account.Name
	c.create(p)
	c.until("by-account", "running", running)

	log, err := os.ReadFile(c.DataDir + "/serve.log")
	check(t, err)
	for _, password := range []string{rightPassword, wrongPassword} {
		if strings.Contains(string(log), password) {
			t.Errorf("the log of gantry serve contains the password %s", password)
		}
	}
}

// pullSecret makes a pull secret for a registry, as `kubectl create secret
// docker-registry` does.
func (c *cluster) pullSecret(secret, host, password string) {
	c.t.Helper()
	auth := base64.StdEncoding.EncodeToString([]byte("ada:" + password))
	_, err := c.client.CoreV1().Secrets(namespace).Create(c.t.Context(), &v1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: secret},
		Type:       v1.SecretTypeDockerConfigJson,
		StringData: map[string]string{v1.DockerConfigJsonKey: fmt.Sprintf(`{"auths":{%q:{"auth":%q}}}`, host, auth)},
	}, metav1.CreateOptions{})
	check(c.t, err)
}

// keepsSecrets looks for passwords wherever a user could see them.
func (c *cluster) keepsSecrets(p *v1.Pod) {
	c.t.Helper()
	description, err := exec.Command("kubectl", "--kubeconfig", c.Kubeconfig(), "describe", "pod", "-n", namespace, p.Name).CombinedOutput()
	check(c.t, err)
	told := string(description) + p.String() + strings.Join(c.events(p.Name), "\n")
	for _, password := range []string{rightPassword, wrongPassword} {
		if strings.Contains(told, password) || strings.Contains(told, base64.StdEncoding.EncodeToString([]byte("ada:"+password))) {
			c.t.Errorf("pod %s shows the password %s:\n%s", p.Name, password, told)
		}
	}
}

func waiting(p *v1.Pod) v1.ContainerStateWaiting {
	if len(p.Status.ContainerStatuses) == 0 || p.Status.ContainerStatuses[0].State.Waiting == nil {
		return v1.ContainerStateWaiting{}
	}
	return *p.Status.ContainerStatuses[0].State.Waiting
}
