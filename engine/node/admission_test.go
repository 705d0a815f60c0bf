package node

import (
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

func TestAPodThatCannotBeConfinedAsItAsksIsRefused(t *testing.T) {
	asking := func(sc v1.SecurityContext) *v1.Pod { return aPod("web", v1.Container{Name: "a", SecurityContext: &sc}) }
	n := &Node{}
	profile := "strict"
	for name, tt := range map[string]struct {
		pod            *v1.Pod
		reason, remedy string
		skip           bool
	}{
		"a label of SELinux":    {asking(v1.SecurityContext{SELinuxOptions: &v1.SELinuxOptions{Type: "t"}}), "SELinux", "remove seLinuxOptions", false},
		"an empty label":        {asking(v1.SecurityContext{SELinuxOptions: &v1.SELinuxOptions{}}), "", "", false},
		"a profile of AppArmor": {asking(v1.SecurityContext{AppArmorProfile: &v1.AppArmorProfile{Type: v1.AppArmorProfileTypeLocalhost, LocalhostProfile: &profile}}), "AppArmor", "appArmorProfile", hasAppArmor()},
		"the default profile":   {asking(v1.SecurityContext{AppArmorProfile: &v1.AppArmorProfile{Type: v1.AppArmorProfileTypeRuntimeDefault}}), "AppArmor", "enable AppArmor", hasAppArmor()},
		"no profile":            {asking(v1.SecurityContext{AppArmorProfile: &v1.AppArmorProfile{Type: v1.AppArmorProfileTypeUnconfined}}), "", "", false},
		"a profile of the pod": {func() *v1.Pod {
			p := aPod("web", v1.Container{Name: "a", SecurityContext: &v1.SecurityContext{}})
			p.Spec.SecurityContext.AppArmorProfile = &v1.AppArmorProfile{Type: v1.AppArmorProfileTypeLocalhost, LocalhostProfile: &profile}
			return p
		}(), "AppArmor", "appArmorProfile", hasAppArmor()},
		"a resource claim": {func() *v1.Pod {
			p := aPod("web", v1.Container{Name: "a"})
			p.Spec.ResourceClaims = []v1.PodResourceClaim{{Name: "gpu"}}
			return p
		}(), "UnexpectedAdmissionError", "remove resourceClaims", false},
	} {
		if tt.skip {
			continue
		}
		v := n.admit(tt.pod)
		switch {
		case tt.reason == "" && v != nil:
			t.Errorf("%s: refused: %+v", name, v)
		case tt.reason != "" && (v == nil || v.Reason != tt.reason || !strings.Contains(v.Message, tt.remedy)):
			t.Errorf("%s: %+v, want reason %s and %q", name, v, tt.reason, tt.remedy)
		}
	}
}

func hasAppArmor() bool {
	_, err := os.Stat("/sys/kernel/security/apparmor/profiles")
	return err == nil
}

func TestAPodBoundByHandThatIsTooLargeFailsAndSaysOfWhat(t *testing.T) {
	for what, reason := range map[v1.ResourceName]string{
		v1.ResourceCPU: "OutOfcpu", v1.ResourceMemory: "OutOfmemory", "hugepages-1Gi": "OutOfhugepages-1Gi", "example.com/gpu": "OutOfexample.com/gpu",
	} {
		synctest.Test(t, func(t *testing.T) {
			list := v1.ResourceList{what: resource.MustParse("100000Gi")}
			r := newRig(t, aPod("web", v1.Container{Name: "a", Resources: v1.ResourceRequirements{Requests: list, Limits: list}}))
			defer func() { r.stop() }()
			time.Sleep(2 * time.Second)
			p := r.pod("web")
			if p.Status.Phase != v1.PodFailed || p.Status.Reason != reason || !strings.Contains(p.Status.Message, string(what)) {
				t.Errorf("%s: %s, %s: %s", what, p.Status.Phase, p.Status.Reason, p.Status.Message)
			}
			if got := r.driver.started(); len(got) > 0 {
				t.Errorf("%s: %v was started", what, got)
			}
		})
	}
}

func TestAPodForAHandlerThatIsNotThereIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		users, class := false, "gone"
		mapped, strange := aPod("mapped", v1.Container{Name: "a"}), aPod("strange", v1.Container{Name: "a"})
		mapped.Spec.HostUsers = &users
		strange.Spec.RuntimeClassName = &class
		r := newRig(t, mapped, strange)
		defer func() { r.stop() }()
		time.Sleep(2 * time.Second)
		for pod, remedy := range map[string]string{"mapped": "leave hostUsers out", "strange": "create it with one of the handlers"} {
			if p := r.pod(pod); p.Status.Phase != v1.PodPending {
				t.Errorf("%s is %s", pod, p.Status.Phase)
			}
			if told := r.events(pod); !strings.Contains(told, "FailedCreatePodSandBox") || !strings.Contains(told, remedy) {
				t.Errorf("%s was told %q, want %q", pod, told, remedy)
			}
		}
		if got := r.driver.started(); len(got) > 0 {
			t.Errorf("%v was started", got)
		}
	})
}
