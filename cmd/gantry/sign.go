package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/spf13/cobra"
	"golang.org/x/term"
	"k8s.io/client-go/kubernetes"

	"github.com/gantryhq/gantry/internal/attest"
	"github.com/gantryhq/gantry/internal/hint"
)

const keyHelp = "A key is a file, k8s://NAMESPACE/SECRET or hashivault://NAME (VAULT_ADDR, VAULT_TOKEN),\n" +
	"as for cosign; the default is the installation's own, " + attest.InstanceKeyRef + ".\n" +
	"COSIGN_PASSWORD is the password of a private key in a file."

// predicateTypes are the short names of what can be attested, as for cosign.
var predicateTypes = map[string]string{
	"slsaprovenance1": attest.ProvenancePredicate, "provenance": attest.ProvenancePredicate, "vuln": attest.VulnerabilityPredicate,
	"spdxjson": attest.SPDXPredicate, "spdx": attest.SPDXPredicate, "cyclonedx": attest.CycloneDXPredicate,
}

// signedRow is one image of `gantry sign` or `gantry attest`.
type signedRow struct {
	Image         string        `json:"image"` // by digest
	PredicateType string        `json:"predicateType"`
	Key           string        `json:"key"` // sha256:... of the public key
	Layout        attest.Layout `json:"layout"`
	New           bool          `json:"new"` // false when the key had signed it already
}

func newSignCommand(g *globals) *cobra.Command {
	var key, layout string
	var output *string
	c := &cobra.Command{
		Use:   "sign IMAGE...",
		Short: "Sign images in a registry",
		Long: "Signs the digest that each name stands for and stores the signature beside the image.\n" +
			"`cosign verify` accepts it. An image that the key has signed already is left as it is.\n\n" + keyHelp,
		Example: "  gantry sign shop/cart\n  gantry sign --key cosign.key ghcr.io/acme/cart:1.2",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			how, err := parseLayout(layout)
			if err != nil {
				return err
			}
			ring := g.keyring()
			signer, err := ring.Signer(c.Context(), key)
			if err != nil {
				return err
			}
			rows := []signedRow{}
			for _, arg := range args {
				image, err := g.resolveImage(c.Context(), arg)
				if err != nil {
					return err
				}
				row := signedRow{Image: image.String(), PredicateType: attest.SignPredicate, Key: signer.Public.ID, Layout: how}
				if row.New, err = ensureSigned(c.Context(), image, signer, how); err != nil {
					return err
				}
				rows = append(rows, row)
			}
			return printSigned(c.OutOrStdout(), *output, rows)
		},
	}
	c.Flags().StringVar(&key, "key", attest.InstanceKeyRef, "private key to sign with")
	addLayoutFlag(c, &layout)
	output = outputFlag(c)
	return c
}

func addLayoutFlag(c *cobra.Command, layout *string) {
	c.Flags().StringVar(layout, "layout", string(attest.Referrer), "how to store it: referrer, as cosign 3, or tag, for tools that know only the older layout")
}

func parseLayout(s string) (attest.Layout, error) {
	if l := attest.Layout(s); l == attest.Referrer || l == attest.Tag {
		return l, nil
	}
	return "", usageError{fmt.Errorf("--layout %q: known are referrer and tag", s)}
}

// ensureSigned signs an image unless the key has signed it in this layout.
func ensureSigned(ctx context.Context, image name.Digest, signer *attest.Signer, layout attest.Layout) (made bool, err error) {
	claims, err := attest.Verify(ctx, image, attest.SignPredicate, []*attest.PublicKey{signer.Public}, remoteOptions(ctx)...)
	if err != nil && !errors.As(err, new(*attest.UnverifiedError)) {
		return false, registryError(err)
	}
	for _, c := range claims {
		if c.Layout == layout {
			return false, nil
		}
	}
	return true, registryError(attest.Sign(ctx, image, signer, layout, remoteOptions(ctx)...))
}

func printSigned(out io.Writer, format string, rows []signedRow) error {
	if format == "json" {
		return writeJSON(out, rows)
	}
	for _, r := range rows {
		did := "signed"
		if r.PredicateType != attest.SignPredicate {
			did = "attached " + r.PredicateType + " to"
		} else if !r.New {
			did = "was signed already:"
		}
		fmt.Fprintf(out, "%s %s (key %.19s)\n", did, r.Image, r.Key)
	}
	return nil
}

func newAttestCommand(g *globals) *cobra.Command {
	var key, layout, kind, file string
	var output *string
	c := &cobra.Command{
		Use:   "attest IMAGE --type TYPE --predicate FILE",
		Short: "Attach a signed statement to an image: SBOM, scan result, provenance",
		Long: "Signs a JSON document about the digest that a name stands for and stores it beside the\n" +
			"image. TYPE is spdxjson, cyclonedx, vuln, slsaprovenance1 or the URI of a predicate type.\n" +
			"`cosign verify-attestation` accepts it.\n\n" + keyHelp,
		Example: "  gantry attest shop/cart --type spdxjson --predicate cart.spdx.json",
		Args:    cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			how, err := parseLayout(layout)
			if err != nil {
				return err
			}
			predicate, err := readPredicate(file)
			if err != nil {
				return err
			}
			signer, err := g.keyring().Signer(c.Context(), key)
			if err != nil {
				return err
			}
			image, err := g.resolveImage(c.Context(), args[0])
			if err != nil {
				return err
			}
			uri := predicateURI(kind)
			if err := attest.Attach(c.Context(), image, uri, predicate, signer, how, remoteOptions(c.Context())...); err != nil {
				return registryError(err)
			}
			return printSigned(c.OutOrStdout(), *output, []signedRow{{Image: image.String(), PredicateType: uri, Key: signer.Public.ID, Layout: how, New: true}})
		},
	}
	c.Flags().StringVar(&key, "key", attest.InstanceKeyRef, "private key to sign with")
	c.Flags().StringVar(&kind, "type", "", "what the document is")
	c.Flags().StringVar(&file, "predicate", "", "the JSON document; - is standard input")
	addLayoutFlag(c, &layout)
	output = outputFlag(c)
	_ = c.MarkFlagRequired("type") // exists: defined above
	_ = c.MarkFlagRequired("predicate")
	return c
}

// predicateURI turns a short name into the URI of a predicate type.
func predicateURI(kind string) string {
	if uri, ok := predicateTypes[kind]; ok {
		return uri
	}
	return kind
}

func readPredicate(file string) (json.RawMessage, error) {
	var text []byte
	var err error
	if file == "-" {
		text, err = io.ReadAll(os.Stdin)
	} else {
		text, err = os.ReadFile(file)
	}
	if err != nil {
		return nil, fmt.Errorf("read predicate: %w", err)
	}
	var object map[string]json.RawMessage
	if err := json.Unmarshal(text, &object); err != nil || object == nil {
		return nil, hint.Wrap(fmt.Errorf("predicate %s is not a JSON object", file), "SPDX and CycloneDX documents are attached in their JSON form")
	}
	return bytes.TrimSpace(text), nil
}

// keyring finds the keys that a command line names.
func (g *globals) keyring() attest.Keyring {
	return attest.Keyring{
		Kube: func() (kubernetes.Interface, error) {
			cfg, err := g.config()
			if err != nil {
				return nil, err
			}
			return kubernetes.NewForConfig(cfg)
		},
		Password: func(file string) ([]byte, error) { return keyPassword("Password of " + file + ": ") },
		Plugins:  true,
	}
}

// keyPassword is COSIGN_PASSWORD, or what somebody types at a terminal.
func keyPassword(prompt string) ([]byte, error) {
	if password, ok := os.LookupEnv("COSIGN_PASSWORD"); ok {
		return []byte(password), nil
	}
	if !term.IsTerminal(int(os.Stdin.Fd())) {
		return nil, hint.Wrap(errors.New("there is nobody to ask for the password"), "set COSIGN_PASSWORD")
	}
	fmt.Fprint(os.Stderr, prompt)
	defer fmt.Fprintln(os.Stderr)
	password, err := term.ReadPassword(int(os.Stdin.Fd()))
	if err != nil {
		return nil, fmt.Errorf("read password: %w", err)
	}
	return password, nil
}

// resolveImage finds the digest that a name on the command line stands for.
func (g *globals) resolveImage(ctx context.Context, arg string) (name.Digest, error) {
	full, err := findInstance(ctx, g).fullName(arg)
	if err != nil {
		return name.Digest{}, err
	}
	image, err := attest.Resolve(ctx, full, remoteOptions(ctx)...)
	var refused *transport.Error
	if errors.As(err, &refused) && refused.StatusCode == http.StatusNotFound {
		return image, hint.Wrap(fmt.Errorf("image %s is not in its registry", full), "push it first: gantry push %s", arg)
	}
	return image, registryError(err)
}

// registryError says what to do about a registry that refuses or does not answer.
func registryError(err error) error {
	var refused *transport.Error
	switch {
	case err == nil || hint.Of(err) != "":
		return err
	case errors.As(err, &refused) && (refused.StatusCode == http.StatusUnauthorized || refused.StatusCode == http.StatusForbidden):
		return hint.Wrap(err, "log in with `docker login`")
	case errors.As(err, &refused):
		return err
	}
	return hint.Wrap(withoutURLs(err), "is the registry running, and reachable from here?")
}
