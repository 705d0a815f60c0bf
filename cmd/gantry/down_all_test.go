package main

import (
	"strings"
	"testing"

	"github.com/gantryhq/gantry/internal/hint"
)

func TestDownAllRefusesToGuessWhichInstanceIsMeant(t *testing.T) {
	t.Setenv("KUBECONFIG", "/srv/other/kubeconfig")
	err := sameInstance(&globals{})
	if err == nil || !strings.Contains(hint.Of(err), "--data-dir /srv/other") {
		t.Errorf("refusal: %v, hint: %q", err, hint.Of(err))
	}
	if err := sameInstance(&globals{dataDir: "/srv/third"}); err != nil {
		t.Errorf("a named directory is refused: %v", err)
	}
	t.Setenv("KUBECONFIG", defaultDataDir+"/kubeconfig")
	if err := sameInstance(&globals{}); err != nil {
		t.Errorf("the default instance is refused: %v", err)
	}
	t.Setenv("KUBECONFIG", "")
	if err := sameInstance(&globals{}); err != nil {
		t.Errorf("without a kubeconfig: %v", err)
	}
}
