package node

import "testing"

func TestACredentialIsGivenOnlyToTheRegistryItIsFor(t *testing.T) {
	keychain := credentialFor("registry.example:5000", "robot", "secret")
	if user, password, ok := keychain("registry.example:5000"); !ok || user != "robot" || password != "secret" {
		t.Errorf("its own registry got %q %q %v", user, password, ok)
	}
	for _, host := range []string{"mirror.example", "registry.example", "docker.io", ""} {
		if user, password, ok := keychain(host); ok || user != "" || password != "" {
			t.Errorf("%q got a credential that is for another", host)
		}
	}
}
