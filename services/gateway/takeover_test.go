package gateway

import (
	"context"
	"encoding/json"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/gantryhq/gantry/services/gateway/translate"
)

// smallAPI is an API that has one GatewayClass, one Gateway and these further
// objects by the names of their resources, and to which nothing ever happens.
func smallAPI(t *testing.T, further map[string][]any) *rest.Config {
	class := gatewayv1.GatewayClass{ObjectMeta: metav1.ObjectMeta{Name: "gantry"}, Spec: gatewayv1.GatewayClassSpec{ControllerName: translate.ControllerName}}
	gateway := gatewayv1.Gateway{
		ObjectMeta: metav1.ObjectMeta{Name: "default", Namespace: "gantry-system"},
		Spec: gatewayv1.GatewaySpec{GatewayClassName: "gantry", Listeners: []gatewayv1.Listener{{
			Name: "http", Port: 80, Protocol: gatewayv1.HTTPProtocolType,
			AllowedRoutes: &gatewayv1.AllowedRoutes{Namespaces: &gatewayv1.RouteNamespaces{From: new(gatewayv1.NamespacesFromAll)}},
		}}},
	}
	items := map[string][]any{"gatewayclasses": {class}, "gateways": {gateway}}
	maps.Copy(items, further)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("sendInitialEvents") != "" {
			http.Error(w, "not supported", http.StatusUnprocessableEntity) // the client lists instead
			return
		}
		w.Header().Set("Content-Type", "application/json")
		if r.URL.Query().Get("watch") != "" {
			http.NewResponseController(w).Flush()
			<-r.Context().Done()
			return
		}
		list := items[r.URL.Path[strings.LastIndexByte(r.URL.Path, '/')+1:]]
		if list == nil || strings.Contains(r.URL.Query().Get("fieldSelector"), translate.CredentialsType) {
			list = []any{}
		}
		json.NewEncoder(w).Encode(map[string]any{"metadata": map[string]string{"resourceVersion": "1"}, "items": list})
	}))
	t.Cleanup(server.CloseClientConnections)
	return &rest.Config{Host: server.URL}
}

// start runs a gateway and waits until it is ready.
func start(t *testing.T, cfg Config) (end context.CancelFunc, ended <-chan error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	done := make(chan error, 1)
	go func() { done <- Run(ctx, cfg) }()
	return cancel, done
}

func TestASuccessorTakesThePortsOverWithoutAGap(t *testing.T) {
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := free.Addr().String()
	free.Close()
	cfg := Config{Client: smallAPI(t, nil), Listen: address, TLSListen: "127.0.0.1:0", Admin: filepath.Join(t.TempDir(), "admin.sock")}
	endOld, oldEnded := start(t, cfg)
	connect := func() error {
		conn, err := net.DialTimeout("tcp", address, 5*time.Second)
		if err == nil {
			conn.Close()
		}
		return err
	}
	if !poll(20*time.Second, func() bool { return connect() == nil }) {
		t.Fatal("the gateway does not listen")
	}

	cfg.TakeOver = true
	endNew, newEnded := start(t, cfg)
	endOld() // at once, as one who does not wait for the successor
	for ended := false; !ended; {
		select {
		case err := <-oldEnded:
			if err != nil {
				t.Errorf("the old gateway ended with %v", err)
			}
			ended = true
		default:
		}
		if err := connect(); err != nil {
			t.Fatalf("for a moment nobody listened: %v", err)
		}
	}
	endNew()
	if err := <-newEnded; err != nil {
		t.Errorf("the new gateway ended with %v", err)
	}
}
