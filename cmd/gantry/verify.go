package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/gantryhq/gantry/internal/attest"
	"github.com/gantryhq/gantry/internal/hint"
)

// verifiedRow is one claim that `gantry verify` found to be signed.
type verifiedRow struct {
	Image         string          `json:"image"` // by digest
	PredicateType string          `json:"predicateType"`
	Key           string          `json:"key"`
	Layout        attest.Layout   `json:"layout"`
	Digest        string          `json:"digest"` // of what holds the claim
	Predicate     json.RawMessage `json:"predicate,omitempty"`
}

func newVerifyCommand(g *globals) *cobra.Command {
	var refs []string
	var kind string
	var output *string
	c := &cobra.Command{
		Use:   "verify IMAGE...",
		Short: "Check that images, or statements about them, are signed by a key",
		Long: "Checks the signature of the digest that each name stands for; with --type one of the\n" +
			"statements that are attached to it, which -o json prints. What cosign signed is accepted.\n" +
			"With several keys one of them is enough.\n\n" + keyHelp,
		Example: "  gantry verify shop/cart\n  gantry verify --key cosign.pub --type spdxjson -o json ghcr.io/acme/cart:1.2",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			var keys []*attest.PublicKey
			for _, ref := range refs {
				key, err := g.keyring().PublicKey(c.Context(), ref)
				if err != nil {
					return err
				}
				keys = append(keys, key)
			}
			uri := attest.SignPredicate
			if kind != "" {
				uri = predicateURI(kind)
			}
			rows := []verifiedRow{}
			for _, arg := range args {
				found, err := g.verify(c, arg, uri, refs, keys)
				if err != nil {
					return err
				}
				rows = append(rows, found...)
			}
			return printVerified(c.OutOrStdout(), *output, rows)
		},
	}
	c.Flags().StringArrayVar(&refs, "key", []string{attest.InstanceKeyRef}, "public key that must have signed (repeatable)")
	c.Flags().StringVar(&kind, "type", "", "check a statement instead: spdxjson, cyclonedx, vuln, slsaprovenance1 or a URI")
	output = outputFlag(c)
	return c
}

func (g *globals) verify(c *cobra.Command, arg, uri string, refs []string, keys []*attest.PublicKey) ([]verifiedRow, error) {
	image, err := g.resolveImage(c.Context(), arg)
	if err != nil {
		return nil, err
	}
	claims, err := attest.Verify(c.Context(), image, uri, keys, remoteOptions(c.Context())...)
	if errors.As(err, new(*attest.UnverifiedError)) {
		key := ""
		if refs[0] != attest.InstanceKeyRef {
			key = "--key " + privateRef(refs[0]) + " "
		}
		command := fmt.Sprintf("gantry sign %s%s", key, image)
		if uri != attest.SignPredicate {
			command = fmt.Sprintf("gantry attest %s--type %s --predicate FILE %s", key, uri, image)
		}
		return nil, hint.Wrap(fmt.Errorf("image %s: %w", image, err), "if you vouch for it: %s", command)
	}
	if err != nil {
		return nil, registryError(err)
	}
	var rows []verifiedRow
	for _, claim := range claims {
		row := verifiedRow{Image: image.String(), PredicateType: claim.PredicateType, Key: claim.Key.ID, Layout: claim.Layout, Digest: claim.Digest}
		if uri != attest.SignPredicate {
			row.Predicate = claim.Predicate
		}
		rows = append(rows, row)
	}
	return rows, nil
}

func printVerified(out io.Writer, format string, rows []verifiedRow) error {
	if format == "json" {
		return writeJSON(out, rows)
	}
	for _, r := range rows {
		what := "is signed"
		if r.PredicateType != attest.SignPredicate {
			what = "has a signed " + r.PredicateType
		}
		fmt.Fprintf(out, "%s %s (key %.19s)\n", r.Image, what, r.Key)
	}
	return nil
}
