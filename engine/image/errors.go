package image

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"syscall"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	remoteerrors "github.com/containerd/containerd/v2/core/remotes/errors"
	"github.com/containerd/errdefs"

	"github.com/gantryhq/gantry/internal/hint"
)

// Why a pull or push did not happen, for errors.Is. An image that does not
// exist, here or in the registry, is fs.ErrNotExist.
var (
	ErrUnauthorized = errors.New("not authorized")
	ErrUnreachable  = errors.New("registry not reachable")
	ErrPlatform     = errors.New("no image for this platform")
	ErrCorrupt      = errors.New("content does not match its digest")
	ErrBadName      = errors.New("invalid image name")
)

// Error is a failed pull or push, told so that a user knows what to do.
type Error struct {
	Verb string // "pull" or "push"
	Ref  string
	Kind error  // one of the errors above, fs.ErrNotExist, or nil
	Text string // one sentence; "" means the cause speaks for itself
	Err  error  // the cause
}

func (e *Error) Error() string {
	if e.Text == "" {
		return fmt.Sprintf("%s image %q: %v", e.Verb, e.Ref, e.Err)
	}
	return fmt.Sprintf("%s image %q: %s", e.Verb, e.Ref, e.Text)
}

func (e *Error) Unwrap() []error {
	if e.Kind == nil {
		return []error{e.Err}
	}
	return []error{e.Kind, e.Err}
}

// explain classifies what containerd's libraries returned, with a hint where
// there is something to do about it.
func explain(verb, ref, host string, err error) error {
	var already *Error
	if err == nil || errors.Is(err, context.Canceled) || errors.As(err, &already) {
		return err
	}
	e := &Error{Verb: verb, Ref: ref, Err: err}
	remedy := ""
	var status remoteerrors.ErrUnexpectedStatus
	var netErr net.Error
	var opErr *net.OpError
	switch {
	case errors.Is(err, syscall.ENOSPC):
		e.Text = "the disk is full"
		remedy = "free space under the data directory, then try again"
	case errors.Is(err, docker.ErrInvalidAuthorization),
		errors.As(err, &status) && (status.StatusCode == http.StatusUnauthorized || status.StatusCode == http.StatusForbidden):
		e.Kind = ErrUnauthorized
		e.Text = fmt.Sprintf("registry %s refuses access: the repository is private or the credentials are wrong", host)
		remedy = "add an image pull secret for " + host + ", or check the one that is used"
	case errors.As(err, &status):
		e.Text = fmt.Sprintf("registry %s answered %s", host, status.Status)
	case errors.As(err, &opErr), errors.As(err, &netErr):
		e.Kind = ErrUnreachable
		e.Text = fmt.Sprintf("registry %s cannot be reached: %v", host, rootCause(err))
		remedy = "check the registry's name and port, and that it is running"
	case errors.Is(err, errWrongContent), errdefs.IsFailedPrecondition(err):
		e.Kind = ErrCorrupt
		e.Text = fmt.Sprintf("registry %s sent content that does not match its digest: %v", host, err)
	case errdefs.IsNotFound(err):
		e.Kind = fs.ErrNotExist
		e.Text = fmt.Sprintf("not found in registry %s: no such repository or tag", host)
		remedy = "check the name, or build and push the image first"
	}
	if remedy == "" {
		return e
	}
	return hint.Wrap(e, "%s", remedy)
}

// errWrongContent marks a layer whose uncompressed digest is not the one the
// image's configuration promises.
var errWrongContent = errors.New("wrong content")

func rootCause(err error) error {
	for {
		next := errors.Unwrap(err)
		if next == nil {
			return err
		}
		if _, ok := next.(syscall.Errno); ok {
			return next
		}
		err = next
	}
}
