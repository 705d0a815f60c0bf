package main

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/google/go-containerregistry/pkg/name"
	"k8s.io/client-go/kubernetes"

	"github.com/gantryhq/gantry/internal/attest"
)

// imageSigner signs what is built here with the installation's own key. What that key has
// signed already costs a look into the registry, and no private key is read for it.
type imageSigner struct {
	kube func() (kubernetes.Interface, error)

	keys   sync.Mutex // guards public and signer, which are read on first need
	public *attest.PublicKey
	signer *attest.Signer

	mu      sync.Mutex
	problem error // why images stay unsigned, or nil
}

// ensure signs an image by digest. An image that cannot be signed is used unsigned, unless a
// TrustPolicy refuses it: not everyone who may deploy may sign. Problem tells.
func (s *imageSigner) ensure(ctx context.Context, ref string) {
	if err := s.sign(ctx, ref); err != nil && ctx.Err() == nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.problem = errors.Join(s.problem, fmt.Errorf("%s stays unsigned: %w", ref, err))
	}
}

func (s *imageSigner) sign(ctx context.Context, ref string) error {
	image, err := name.NewDigest(ref)
	if err != nil {
		return err
	}
	public, err := s.publicKey(ctx)
	if err != nil {
		return err
	}
	_, err = attest.Verify(ctx, image, attest.SignPredicate, []*attest.PublicKey{public}, remoteOptions(ctx)...)
	if !errors.As(err, new(*attest.UnverifiedError)) {
		return err
	}
	signer, err := s.privateKey(ctx)
	if err != nil {
		return err
	}
	return attest.Sign(ctx, image, signer, attest.Referrer, remoteOptions(ctx)...)
}

func (s *imageSigner) publicKey(ctx context.Context) (*attest.PublicKey, error) {
	s.keys.Lock()
	defer s.keys.Unlock()
	if s.public == nil {
		kube, err := s.kube()
		if err != nil {
			return nil, err
		}
		if s.public, err = attest.InstancePublicKey(ctx, kube); err != nil {
			return nil, err
		}
	}
	return s.public, nil
}

func (s *imageSigner) privateKey(ctx context.Context) (*attest.Signer, error) {
	s.keys.Lock()
	defer s.keys.Unlock()
	if s.signer == nil {
		kube, err := s.kube()
		if err != nil {
			return nil, err
		}
		if s.signer, err = attest.InstanceSigner(ctx, kube); err != nil {
			return nil, err
		}
	}
	return s.signer, nil
}

// unsigned is why images stayed unsigned, or nil.
func (s *imageSigner) unsigned() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.problem
}
