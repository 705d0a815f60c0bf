package apiserver

import (
	"github.com/emicklei/go-restful/v3"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/endpoints/handlers/responsewriters"
)

// refuseAsStatus answers requests that no route takes (an unknown resource, a
// wrong method, an encoding that is not spoken) as all others are refused: with a
// Status, which clients understand, and not with a line of text.
func refuseAsStatus(s runtime.NegotiatedSerializer) restful.ServiceErrorHandleFunction {
	return func(refusal restful.ServiceError, request *restful.Request, response *restful.Response) {
		for name, values := range refusal.Header {
			for _, value := range values {
				response.Header().Add(name, value)
			}
		}
		err := apierrors.NewGenericServerResponse(refusal.Code, "", schema.GroupResource{}, "", refusal.Message, 0, false)
		responsewriters.ErrorNegotiated(err, s, schema.GroupVersion{}, response.ResponseWriter, request.Request)
	}
}
