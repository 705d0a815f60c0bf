// Package apiclient has typed clients for Gantry's own kinds (api/v1alpha1), in
// the shape of those that client-go has for Kubernetes' kinds.
//
// Imported by services and commands.
package apiclient

import (
	"fmt"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/gentype"
	"k8s.io/client-go/rest"

	"github.com/gantryhq/gantry/api/v1alpha1"
)

// Client makes clients for the kinds. It is safe for concurrent use.
type Client struct {
	rest   rest.Interface
	params runtime.ParameterCodec
}

// New returns a client for the API that cfg leads to.
func New(cfg *rest.Config) (*Client, error) {
	scheme := runtime.NewScheme()
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		return nil, fmt.Errorf("prepare client of %s: %w", v1alpha1.GroupVersion, err)
	}
	cfg = rest.CopyConfig(cfg)
	cfg.GroupVersion = &v1alpha1.GroupVersion
	cfg.APIPath = "/apis"
	cfg.ContentType, cfg.AcceptContentTypes = runtime.ContentTypeJSON, "" // all that custom resources speak
	cfg.NegotiatedSerializer = serializer.NewCodecFactory(scheme).WithoutConversion()
	client, err := rest.RESTClientFor(cfg)
	if err != nil {
		return nil, fmt.Errorf("prepare client of %s: %w", v1alpha1.GroupVersion, err)
	}
	return &Client{client, runtime.NewParameterCodec(scheme)}, nil
}

// AccessPolicies are those of a namespace; "" is all of them, to list and watch.
func (c *Client) AccessPolicies(namespace string) *gentype.ClientWithList[*v1alpha1.AccessPolicy, *v1alpha1.AccessPolicyList] {
	return gentype.NewClientWithList("accesspolicies", c.rest, c.params, namespace,
		func() *v1alpha1.AccessPolicy { return &v1alpha1.AccessPolicy{} },
		func() *v1alpha1.AccessPolicyList { return &v1alpha1.AccessPolicyList{} })
}

// BackendPolicies are those of a namespace; "" is all of them, to list and watch.
func (c *Client) BackendPolicies(namespace string) *gentype.ClientWithList[*v1alpha1.BackendPolicy, *v1alpha1.BackendPolicyList] {
	return gentype.NewClientWithList("backendpolicies", c.rest, c.params, namespace,
		func() *v1alpha1.BackendPolicy { return &v1alpha1.BackendPolicy{} },
		func() *v1alpha1.BackendPolicyList { return &v1alpha1.BackendPolicyList{} })
}

// Builds are those of a namespace; "" is all of them, to list and watch.
func (c *Client) Builds(namespace string) *gentype.ClientWithList[*v1alpha1.Build, *v1alpha1.BuildList] {
	return gentype.NewClientWithList("builds", c.rest, c.params, namespace,
		func() *v1alpha1.Build { return &v1alpha1.Build{} },
		func() *v1alpha1.BuildList { return &v1alpha1.BuildList{} })
}

// Pipelines are those of a namespace; "" is all of them, to list and watch.
func (c *Client) Pipelines(namespace string) *gentype.ClientWithList[*v1alpha1.Pipeline, *v1alpha1.PipelineList] {
	return gentype.NewClientWithList("pipelines", c.rest, c.params, namespace,
		func() *v1alpha1.Pipeline { return &v1alpha1.Pipeline{} },
		func() *v1alpha1.PipelineList { return &v1alpha1.PipelineList{} })
}

// RegistryPolicies are those of a namespace; "" is all of them, to list and watch.
func (c *Client) RegistryPolicies(namespace string) *gentype.ClientWithList[*v1alpha1.RegistryPolicy, *v1alpha1.RegistryPolicyList] {
	return gentype.NewClientWithList("registrypolicies", c.rest, c.params, namespace,
		func() *v1alpha1.RegistryPolicy { return &v1alpha1.RegistryPolicy{} },
		func() *v1alpha1.RegistryPolicyList { return &v1alpha1.RegistryPolicyList{} })
}

// ScalePolicies are those of a namespace; "" is all of them, to list and watch.
func (c *Client) ScalePolicies(namespace string) *gentype.ClientWithList[*v1alpha1.ScalePolicy, *v1alpha1.ScalePolicyList] {
	return gentype.NewClientWithList("scalepolicies", c.rest, c.params, namespace,
		func() *v1alpha1.ScalePolicy { return &v1alpha1.ScalePolicy{} },
		func() *v1alpha1.ScalePolicyList { return &v1alpha1.ScalePolicyList{} })
}

// TrafficPolicies are those of a namespace; "" is all of them, to list and watch.
func (c *Client) TrafficPolicies(namespace string) *gentype.ClientWithList[*v1alpha1.TrafficPolicy, *v1alpha1.TrafficPolicyList] {
	return gentype.NewClientWithList("trafficpolicies", c.rest, c.params, namespace,
		func() *v1alpha1.TrafficPolicy { return &v1alpha1.TrafficPolicy{} },
		func() *v1alpha1.TrafficPolicyList { return &v1alpha1.TrafficPolicyList{} })
}

// TrustPolicies are those of the cluster.
func (c *Client) TrustPolicies() *gentype.ClientWithList[*v1alpha1.TrustPolicy, *v1alpha1.TrustPolicyList] {
	return gentype.NewClientWithList("trustpolicies", c.rest, c.params, "",
		func() *v1alpha1.TrustPolicy { return &v1alpha1.TrustPolicy{} },
		func() *v1alpha1.TrustPolicyList { return &v1alpha1.TrustPolicyList{} })
}
