package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/gantryhq/gantry/internal/attest"
	"github.com/gantryhq/gantry/internal/hint"
)

func newKeysCommand(g *globals) *cobra.Command {
	c := &cobra.Command{
		Use:   "keys",
		Short: "Make keys to sign images with, and show public ones",
	}
	c.AddCommand(newGenerateKeyCommand(g), newShowKeyCommand(g))
	return c
}

func newGenerateKeyCommand(g *globals) *cobra.Command {
	prefix := "cosign"
	c := &cobra.Command{
		Use:   "generate [k8s://NAMESPACE/SECRET]",
		Short: "Make a key pair, in files or in a Secret",
		Long: "Makes a key pair as `cosign generate-key-pair` does. In files the private key is encrypted\n" +
			"with a password: COSIGN_PASSWORD, or typed. In a Secret password and keys lie together, so\n" +
			"whoever may read the Secret may sign. What is there already is never replaced.",
		Example: "  gantry keys generate\n  gantry keys generate k8s://team-a/signing",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) == 0 {
				return generateFiles(prefix, c)
			}
			namespace, name, ok := strings.Cut(strings.TrimPrefix(args[0], "k8s://"), "/")
			if !strings.HasPrefix(args[0], "k8s://") || !ok || namespace == "" || name == "" {
				return usageError{hint.Wrap(fmt.Errorf("%q is not a place for a key", args[0]), "write k8s://NAMESPACE/SECRET, or nothing for files")}
			}
			return generateSecret(c, g, namespace, name)
		},
	}
	c.Flags().StringVar(&prefix, "output-key-prefix", prefix, "the files are PREFIX.key and PREFIX.pub")
	return c
}

func generateFiles(prefix string, c *cobra.Command) error {
	for _, file := range []string{prefix + ".key", prefix + ".pub"} {
		if _, err := os.Lstat(file); !errors.Is(err, fs.ErrNotExist) {
			return hint.Wrap(fmt.Errorf("%s exists and is not replaced", file), "remove it, or choose other names with --output-key-prefix")
		}
	}
	password, err := newPassword()
	if err != nil {
		return err
	}
	private, public, err := attest.GenerateKey(password)
	if err != nil {
		return err
	}
	if err := os.WriteFile(prefix+".key", private, 0o600); err != nil {
		return fmt.Errorf("write private key: %w", err)
	}
	if err := os.WriteFile(prefix+".pub", public, 0o644); err != nil {
		return fmt.Errorf("write public key: %w", err)
	}
	fmt.Fprintf(c.OutOrStdout(), "private key: %[1]s.key\npublic key: %[1]s.pub\n", prefix)
	return nil
}

// newPassword asks twice when somebody types it.
func newPassword() ([]byte, error) {
	password, err := keyPassword("Password for the private key: ")
	if err != nil {
		return nil, err
	}
	if _, set := os.LookupEnv("COSIGN_PASSWORD"); set {
		return password, nil
	}
	again, err := keyPassword("The password again: ")
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(password, again) {
		return nil, errors.New("the passwords differ")
	}
	return password, nil
}

func generateSecret(c *cobra.Command, g *globals, namespace, name string) error {
	cfg, err := g.config()
	if err != nil {
		return err
	}
	kube, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return err
	}
	if err := makeKeySecret(c.Context(), kube, namespace, name); err != nil {
		return err
	}
	fmt.Fprintf(c.OutOrStdout(), "made k8s://%s/%s; its public key: gantry keys show k8s://%s/%s\n", namespace, name, namespace, name)
	return nil
}

func makeKeySecret(ctx context.Context, kube kubernetes.Interface, namespace, name string) error {
	password, err := attest.RandomPassword()
	if err != nil {
		return err
	}
	private, public, err := attest.GenerateKey(password)
	if err != nil {
		return err
	}
	_, err = kube.CoreV1().Secrets(namespace).Create(ctx, attest.KeySecret(namespace, name, private, public, password), metav1.CreateOptions{})
	if err != nil {
		return fmt.Errorf("make key k8s://%s/%s: %w", namespace, name, err)
	}
	return nil
}

// keyRow is a public key as `gantry keys show -o json` prints it.
type keyRow struct {
	ID  string `json:"id"`
	PEM string `json:"pem"`
}

func newShowKeyCommand(g *globals) *cobra.Command {
	var output *string
	c := &cobra.Command{
		Use:   "show [KEY]",
		Short: "Print a public key, to give it away or to put it into a TrustPolicy",
		Long:  "Prints the public half of a key in PEM.\n\n" + keyHelp,
		Args:  cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			key, err := g.publicKey(c.Context(), append(args, attest.InstanceKeyRef)[0])
			if err != nil {
				return err
			}
			if *output == "json" {
				return writeJSON(c.OutOrStdout(), keyRow{ID: key.ID, PEM: string(key.PEM)})
			}
			_, err = c.OutOrStdout().Write(key.PEM)
			return err
		},
	}
	output = outputFlag(c)
	return c
}

// publicKey is the public half of a key; of a private one in a file too, for its password.
func (g *globals) publicKey(ctx context.Context, ref string) (*attest.PublicKey, error) {
	ring := g.keyring()
	key, err := ring.PublicKey(ctx, ref)
	if errors.Is(err, attest.ErrPrivate) {
		signer, err := ring.Signer(ctx, ref)
		if err != nil {
			return nil, err
		}
		return signer.Public, nil
	}
	return key, err
}

// privateRef is the reference to sign with that belongs to one to verify with.
func privateRef(ref string) string {
	if prefix, ok := strings.CutSuffix(ref, ".pub"); ok {
		return prefix + ".key"
	}
	return ref
}
