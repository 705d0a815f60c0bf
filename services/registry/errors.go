package registry

import (
	"encoding/json"
	"errors"
	"net/http"
	"syscall"

	"github.com/gantryhq/gantry/services/registry/storage"
)

// refusal is an answer in the error format of the distribution specification.
type refusal struct {
	status  int
	code    string
	message string
	detail  any
}

func (e *refusal) Error() string { return e.message }

// codes gives the errors of the storage and of others their answers.
var codes = []struct {
	err    error
	status int
	code   string
}{
	{ErrUnauthenticated, http.StatusUnauthorized, "UNAUTHORIZED"},
	{ErrDenied, http.StatusForbidden, "DENIED"},
	{storage.ErrNameInvalid, http.StatusBadRequest, "NAME_INVALID"},
	{storage.ErrNameUnknown, http.StatusNotFound, "NAME_UNKNOWN"},
	{storage.ErrTagInvalid, http.StatusBadRequest, "TAG_INVALID"},
	{storage.ErrManifestInvalid, http.StatusBadRequest, "MANIFEST_INVALID"},
	{storage.ErrDigestInvalid, http.StatusBadRequest, "DIGEST_INVALID"},
	{storage.ErrBlobUnknown, http.StatusNotFound, "BLOB_UNKNOWN"},
	{storage.ErrManifestUnknown, http.StatusNotFound, "MANIFEST_UNKNOWN"},
	{storage.ErrUploadUnknown, http.StatusNotFound, "BLOB_UPLOAD_UNKNOWN"},
	{storage.ErrUploadBusy, http.StatusConflict, "BLOB_UPLOAD_INVALID"},
	{storage.ErrRangeInvalid, http.StatusRequestedRangeNotSatisfiable, "BLOB_UPLOAD_INVALID"},
	{storage.ErrSizeInvalid, http.StatusBadRequest, "SIZE_INVALID"},
	{syscall.ENOSPC, http.StatusInsufficientStorage, "DENIED"},
	{syscall.EDQUOT, http.StatusInsufficientStorage, "DENIED"},
}

// explain makes an answer of an error; nil of one that is the registry's own fault.
func explain(err error) *refusal {
	var ready *refusal
	if errors.As(err, &ready) {
		return ready
	}
	var missing *storage.MissingError
	if errors.As(err, &missing) {
		return &refusal{http.StatusBadRequest, "MANIFEST_BLOB_UNKNOWN", err.Error(), map[string]string{"digest": missing.Digest.String()}}
	}
	for _, c := range codes {
		if errors.Is(err, c.err) {
			return &refusal{status: c.status, code: c.code, message: err.Error()}
		}
	}
	return nil
}

// refuse answers with an error. What a client cannot mend is logged, not told.
func (r *Registry) refuse(w http.ResponseWriter, req *http.Request, err error) {
	answer := explain(err)
	if answer == nil {
		if req.Context().Err() == nil {
			r.log.Error("registry", "method", req.Method, "path", req.URL.Path, "err", err)
		}
		answer = &refusal{status: http.StatusInternalServerError, code: "UNKNOWN", message: "the registry met an error, which its log tells"}
	}
	if answer.status == http.StatusUnauthorized {
		challenge(w, req)
	}
	type entry struct {
		Code    string `json:"code"`
		Message string `json:"message"`
		Detail  any    `json:"detail,omitempty"`
	}
	w.Header().Del("Content-Length")
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(answer.status)
	if req.Method != http.MethodHead {
		// A client that is gone needs no answer.
		_ = json.NewEncoder(w).Encode(map[string][]entry{"errors": {{answer.code, answer.message, answer.detail}}})
	}
}
