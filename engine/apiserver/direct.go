package apiserver

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"

	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metainternal "k8s.io/apimachinery/pkg/apis/meta/internalversion/scheme"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	genericapi "k8s.io/apiserver/pkg/endpoints"
	"k8s.io/apiserver/pkg/endpoints/handlers"
	"k8s.io/apiserver/pkg/endpoints/handlers/responsewriters"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/kubernetes/pkg/api/legacyscheme"

	"github.com/gantryhq/gantry/engine/apiserver/inproc"
)

// plain answers the requests that components make all the time: a typed client gets, creates,
// updates or deletes one object, without options. It does what upstream's handler of the same verb does with
// such a request (decode and default, admit, hand to the registry) on the caller's goroutine, and
// answers with the object itself. Everything else is upstream's to answer: another encoding,
// options such as a dry run, server-side apply.
type plain struct {
	scope   *handlers.RequestScope
	storage rest.Storage
	admit   admission.Interface
	decoder runtime.Decoder // of bodies in protobuf
	general http.Handler    // upstream's handler
}

// plainCall is one request to a plain handler.
type plainCall struct {
	*plain
	w    http.ResponseWriter
	r    *http.Request
	ctx  context.Context
	info *request.RequestInfo
	code int // of the answer when nothing goes wrong
	// owned is set when nobody else has the answer, bytes when the client may not look at it, so
	// that no object must wait for it.
	owned, bytes bool
}

func newPlain(version *genericapi.APIGroupVersion, scope *handlers.RequestScope, storage rest.Storage, general http.HandlerFunc) *plain {
	p := &plain{scope: scope, storage: storage, admit: version.Admit, general: general}
	if info, ok := runtime.SerializerInfoForMediaType(scope.Serializer.SupportedMediaTypes(), runtime.ContentTypeProtobuf); ok {
		p.decoder = scope.Serializer.DecoderToVersion(info.Serializer, scope.HubGroupVersion)
	}
	return p
}

// answer makes a handler of what answers a plain request.
func (p *plain) answer(code int, do func(*plainCall) (runtime.Object, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		info, ok := request.RequestInfoFrom(r.Context())
		if !ok || r.URL.RawQuery != "" || !takesObjects(r) && r.Method != http.MethodDelete || r.Method != http.MethodGet && r.Header.Get("Content-Type") != runtime.ContentTypeProtobuf {
			p.general.ServeHTTP(w, r)
			return
		}
		c := &plainCall{p, w, r, request.WithNamespace(r.Context(), info.Namespace), info, code, false, false}
		obj, err := do(c)
		if errors.Is(err, errNotPlain) {
			p.general.ServeHTTP(w, r)
			return
		}
		if err == nil {
			err = c.write(obj)
		}
		if err != nil {
			responsewriters.ErrorNegotiated(err, p.scope.Serializer, p.scope.Kind.GroupVersion(), w, r)
		}
	}
}

// write answers an object.
func (c *plainCall) write(obj runtime.Object) error {
	status, isStatus := obj.(*metav1.Status)
	if isStatus && status.Code == 0 {
		status.Code = int32(c.code)
	}
	if isStatus || c.bytes {
		responsewriters.WriteObjectNegotiated(c.scope.Serializer, c.scope, c.scope.Kind.GroupVersion(), c.w, c.r, c.code, obj, false)
		return nil
	}
	out, err := legacyscheme.Scheme.UnsafeConvertToVersion(obj, c.scope.Kind.GroupVersion())
	if err != nil {
		return err
	}
	if !c.owned {
		out = out.DeepCopyObject() // it shares memory with what the registry answered
	}
	c.w.Header().Set("Content-Type", inproc.MediaType)
	c.w.WriteHeader(c.code)
	return inproc.HandOver(out, c.w)
}

// errNotPlain leaves a request to upstream's handler.
var errNotPlain = errors.New("request is not a plain one")

func (c *plainCall) get() (runtime.Object, error) {
	c.owned = true
	return c.storage.(rest.Getter).Get(c.ctx, c.info.Name, &metav1.GetOptions{})
}

func (c *plainCall) body() ([]byte, error) {
	body, err := io.ReadAll(io.LimitReader(c.r.Body, c.scope.MaxRequestBodyBytes+1))
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	if int64(len(body)) > c.scope.MaxRequestBodyBytes {
		return nil, apierrors.NewRequestEntityTooLargeError(fmt.Sprintf("limit is %d", c.scope.MaxRequestBodyBytes))
	}
	return body, nil
}

// decode reads the object that a client sends, in the version that the registry works with.
func (c *plainCall) decode() (runtime.Object, error) {
	body, err := c.body()
	if err != nil {
		return nil, err
	}
	kind := c.scope.Kind
	obj, got, err := c.decoder.Decode(body, &kind, c.storage.New())
	switch {
	case err != nil:
		return nil, apierrors.NewBadRequest(err.Error())
	case !c.scope.AcceptsGroupVersion(got.GroupVersion()):
		return nil, apierrors.NewBadRequest("the API version in the data (" + got.GroupVersion().String() +
			") does not match the expected API version (" + c.scope.Kind.GroupVersion().String() + ")")
	}
	return obj, nil
}

// attributes describes the request to admission plugins.
func (c *plainCall) attributes(obj, old runtime.Object, name string, op admission.Operation, options runtime.Object) admission.Attributes {
	who, _ := request.UserFrom(c.ctx)
	return admission.NewAttributesRecord(obj, old, c.scope.Kind, c.info.Namespace, name, c.scope.Resource, c.scope.Subresource, op, options, false, who)
}

// mutate lets plugins change an object before validation.
func (c *plainCall) mutate(obj, old runtime.Object, name string, op admission.Operation, options runtime.Object) error {
	if m, ok := c.admit.(admission.MutationInterface); ok && m.Handles(op) {
		if err := m.Admit(c.ctx, c.attributes(obj, old, name, op, options), c.scope); err != nil {
			return err
		}
	}
	dropRepeatedOwners(obj)
	return nil
}

func (c *plainCall) create() (runtime.Object, error) {
	obj, err := c.decode()
	if err != nil {
		return nil, err
	}
	name := c.info.Name
	if name == "" {
		_, name, _ = c.scope.Namer.ObjectName(obj)
	}
	if o, err := meta.Accessor(obj); err == nil {
		keeps, ok := c.storage.(rest.SubresourceObjectMetaPreserver)
		if !ok || c.scope.Subresource == "" || !keeps.PreserveRequestObjectMetaSystemFieldsOnSubresourceCreate() {
			rest.WipeObjectMetaSystemFields(o)
		}
		o.SetManagedFields(nil)
		if err := rest.EnsureObjectNamespaceMatchesRequestNamespace(rest.ExpectedNamespaceForResource(c.info.Namespace, c.scope.Resource), o); err != nil {
			return nil, err
		}
	}
	dropRepeatedOwners(obj)
	options := &metav1.CreateOptions{}
	options.SetGroupVersionKind(metav1.SchemeGroupVersion.WithKind("CreateOptions"))
	if err := c.mutate(obj, nil, name, admission.Create, options); err != nil {
		return nil, err
	}
	validate := rest.AdmissionToValidateObjectFunc(c.admit, c.attributes(obj, nil, name, admission.Create, options), c.scope)
	if named, ok := c.storage.(rest.NamedCreater); ok {
		return named.Create(c.ctx, name, obj, validate, options)
	}
	return c.storage.(rest.Creater).Create(c.ctx, obj, validate, options)
}

func (c *plainCall) update() (runtime.Object, error) {
	obj, err := c.decode()
	if err != nil {
		return nil, err
	}
	o, err := meta.Accessor(obj)
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	if err := rest.EnsureObjectNamespaceMatchesRequestNamespace(rest.ExpectedNamespaceForResource(c.info.Namespace, c.scope.Resource), o); err != nil {
		return nil, err
	}
	if o.GetName() != c.info.Name {
		return nil, apierrors.NewBadRequest("the name of the object (" + o.GetName() + ") does not match the name on the URL (" + c.info.Name + ")")
	}
	dropRepeatedOwners(obj)
	options, creation := &metav1.UpdateOptions{}, &metav1.CreateOptions{}
	options.SetGroupVersionKind(metav1.SchemeGroupVersion.WithKind("UpdateOptions"))
	creation.SetGroupVersionKind(metav1.SchemeGroupVersion.WithKind("CreateOptions"))
	admitted := func(_ context.Context, obj, old runtime.Object) (runtime.Object, error) {
		if o, err := meta.Accessor(old); err != nil || o.GetUID() == "" {
			return obj, c.mutate(obj, nil, c.info.Name, admission.Create, creation)
		}
		return obj, c.mutate(obj, old, c.info.Name, admission.Update, options)
	}
	created := rest.AdmissionToValidateObjectFunc(c.admit, c.attributes(nil, nil, c.info.Name, admission.Create, creation), c.scope)
	updated := rest.AdmissionToValidateObjectUpdateFunc(c.admit, c.attributes(nil, nil, c.info.Name, admission.Update, options), c.scope)
	result, wasCreated, err := c.storage.(rest.Updater).Update(c.ctx, c.info.Name, rest.DefaultUpdatedObjectInfo(obj, admitted),
		c.ifMayCreate(created), updated, false, options)
	if wasCreated {
		c.code = http.StatusCreated
	}
	return result, err
}

// remove deletes one object.
func (c *plainCall) remove() (runtime.Object, error) {
	body, err := c.body()
	if err != nil {
		return nil, err
	}
	options := &metav1.DeleteOptions{}
	if len(body) > 0 {
		codecs := metainternal.Codecs
		info, _ := runtime.SerializerInfoForMediaType(codecs.SupportedMediaTypes(), runtime.ContentTypeProtobuf)
		kind := metav1.SchemeGroupVersion.WithKind("DeleteOptions")
		if obj, _, err := codecs.DecoderToVersion(info.Serializer, metav1.SchemeGroupVersion).Decode(body, &kind, options); err != nil || obj != options {
			return nil, apierrors.NewBadRequest(fmt.Sprintf("the options cannot be read: %v", err))
		}
	}
	if len(options.DryRun) > 0 || options.IgnoreStoreReadErrorWithClusterBreakingPotential != nil {
		c.r.Body = io.NopCloser(bytes.NewReader(body))
		return nil, errNotPlain
	}
	if errs := validation.ValidateDeleteOptions(options); len(errs) > 0 {
		return nil, apierrors.NewInvalid(schema.GroupKind{Group: metav1.GroupName, Kind: "DeleteOptions"}, "", errs)
	}
	options.SetGroupVersionKind(metav1.SchemeGroupVersion.WithKind("DeleteOptions"))
	validate := rest.AdmissionToValidateObjectDeleteFunc(c.admit, c.attributes(nil, nil, c.info.Name, admission.Delete, options), c.scope)
	obj, deleted, err := c.storage.(rest.GracefulDeleter).Delete(c.ctx, c.info.Name, validate, options)
	if err != nil {
		return nil, err
	}
	if !deleted && options.OrphanDependents != nil && !*options.OrphanDependents { //nolint:staticcheck // what old clients say
		c.code = http.StatusAccepted
	}
	c.bytes = true
	if obj == nil {
		obj = &metav1.Status{Status: metav1.StatusSuccess, Details: &metav1.StatusDetails{Name: c.info.Name, Kind: c.scope.Kind.Kind}}
	}
	return obj, nil
}

// ifMayCreate lets an update create what does not exist if the client has the right to.
func (c *plainCall) ifMayCreate(validate rest.ValidateObjectFunc) rest.ValidateObjectFunc {
	return func(ctx context.Context, obj runtime.Object) error {
		who, _ := request.UserFrom(ctx)
		right := authorizer.AttributesRecord{
			User: who, ResourceRequest: true, Path: c.info.Path, Verb: "create", APIGroup: c.info.APIGroup, APIVersion: c.info.APIVersion,
			Resource: c.info.Resource, Subresource: c.info.Subresource, Namespace: c.info.Namespace, Name: c.info.Name,
		}
		decision, reason, err := c.scope.Authorizer.Authorize(ctx, right)
		switch {
		case decision == authorizer.DecisionAllow:
			return validate(ctx, obj)
		case err != nil:
			return apierrors.NewInternalError(err)
		}
		return responsewriters.ForbiddenStatusError(right, reason)
	}
}

// dropRepeatedOwners removes owner references that say what an earlier one says.
func dropRepeatedOwners(obj runtime.Object) {
	o, err := meta.Accessor(obj)
	if err != nil {
		return // such as a Binding's answer: without metadata there are no owners
	}
	refs := o.GetOwnerReferences()
	if len(refs) < 2 {
		return
	}
	var kept []metav1.OwnerReference
	for _, ref := range refs {
		repeated := false
		for _, earlier := range kept {
			repeated = repeated || equality.Semantic.DeepEqual(ref, earlier)
		}
		if !repeated {
			kept = append(kept, ref)
		}
	}
	if len(kept) < len(refs) {
		o.SetOwnerReferences(kept)
	}
}
