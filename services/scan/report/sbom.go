package report

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/CycloneDX/cyclonedx-go"
	spdxjson "github.com/spdx/tools-golang/json"
	"github.com/spdx/tools-golang/spdx/v2/common"
	spdx "github.com/spdx/tools-golang/spdx/v2/v2_3"
)

// SPDX is the list of packages as an SPDX 2.3 document. Its namespace comes from the
// image's digest, so that one image has one document.
func (r *Report) SPDX() *spdx.Document {
	const image = common.ElementID("Image")
	doc := &spdx.Document{
		SPDXVersion: spdx.Version, DataLicense: spdx.DataLicense, SPDXIdentifier: "DOCUMENT", DocumentName: r.Target,
		DocumentNamespace: "https://gantry.dev/spdx/" + strings.ReplaceAll(orElse(r.Digest, hash(r.Target)), ":", "-"),
		CreationInfo: &spdx.CreationInfo{
			Creators: []common.Creator{{CreatorType: "Tool", Creator: "gantry-scan"}}, Created: r.Finished.UTC().Format(time.RFC3339),
		},
		Packages: []*spdx.Package{{
			PackageName: r.Target, PackageSPDXIdentifier: image, PackageVersion: r.Digest, PackageDownloadLocation: "NOASSERTION",
			PrimaryPackagePurpose: "CONTAINER",
		}},
		Relationships: []*spdx.Relationship{{RefA: common.MakeDocElementID("", "DOCUMENT"), RefB: common.MakeDocElementID("", string(image)), Relationship: "DESCRIBES"}},
	}
	for _, p := range r.Packages {
		id := common.ElementID("Package-" + hash(p.PURL, p.Name, p.Version, p.Path)[:16])
		pkg := &spdx.Package{
			PackageName: p.Name, PackageSPDXIdentifier: id, PackageVersion: p.Version, PackageDownloadLocation: "NOASSERTION",
			PackageSourceInfo: "found in " + p.Path, PackageLicenseDeclared: "NOASSERTION", PackageLicenseConcluded: "NOASSERTION", PackageCopyrightText: "NOASSERTION",
		}
		if p.PURL != "" {
			pkg.PackageExternalReferences = []*spdx.PackageExternalReference{{Category: "PACKAGE-MANAGER", RefType: "purl", Locator: p.PURL}}
		}
		if len(p.Licenses) > 0 {
			pkg.PackageComment = "declared licences: " + strings.Join(p.Licenses, ", ")
		}
		doc.Packages = append(doc.Packages, pkg)
		doc.Relationships = append(doc.Relationships, &spdx.Relationship{
			RefA: common.MakeDocElementID("", string(image)), RefB: common.MakeDocElementID("", string(id)), Relationship: "CONTAINS",
		})
	}
	return doc
}

// WriteSPDX writes the SPDX document as JSON.
func (r *Report) WriteSPDX(out io.Writer) error {
	return spdxjson.Write(r.SPDX(), out, spdxjson.Indent("  "))
}

// CycloneDX is the list of packages, with what is known to be wrong with them, as a
// CycloneDX 1.6 document.
func (r *Report) CycloneDX() *cyclonedx.BOM {
	bom := cyclonedx.NewBOM()
	serial := hash(orElse(r.Digest, r.Target))
	bom.SerialNumber = fmt.Sprintf("urn:uuid:%s-%s-5%s-a%s-%s", serial[:8], serial[8:12], serial[13:16], serial[17:20], serial[20:32])
	bom.Metadata = &cyclonedx.Metadata{
		Timestamp: r.Finished.UTC().Format(time.RFC3339),
		Tools:     &cyclonedx.ToolsChoice{Components: &[]cyclonedx.Component{{Type: cyclonedx.ComponentTypeApplication, Name: "gantry scan"}}},
		Component: &cyclonedx.Component{BOMRef: "image", Type: cyclonedx.ComponentTypeContainer, Name: r.Target, Version: r.Digest},
	}
	components, refs := []cyclonedx.Component{}, map[string]string{}
	for _, p := range r.Packages {
		ref := "pkg-" + hash(p.PURL, p.Name, p.Version, p.Path)[:16]
		refs[p.Name+"\x00"+p.Version+"\x00"+p.Path] = ref
		c := cyclonedx.Component{BOMRef: ref, Type: cyclonedx.ComponentTypeLibrary, Name: p.Name, Version: p.Version, PackageURL: p.PURL,
			Evidence: &cyclonedx.Evidence{Occurrences: &[]cyclonedx.EvidenceOccurrence{{Location: p.Path}}}}
		if len(p.Licenses) > 0 {
			var l cyclonedx.Licenses
			for _, name := range p.Licenses {
				l = append(l, cyclonedx.LicenseChoice{License: &cyclonedx.License{Name: name}})
			}
			c.Licenses = &l
		}
		components = append(components, c)
	}
	bom.Components = &components
	if known := r.cyclonedxVulnerabilities(refs); len(known) > 0 {
		bom.Vulnerabilities = &known
	}
	return bom
}

func (r *Report) cyclonedxVulnerabilities(refs map[string]string) (out []cyclonedx.Vulnerability) {
	index := map[string]int{}
	for _, v := range r.Vulnerabilities {
		affects := cyclonedx.Affects{Ref: refs[v.Package+"\x00"+v.Installed+"\x00"+v.Path]}
		if i, seen := index[v.ID]; seen {
			*out[i].Affects = append(*out[i].Affects, affects)
			continue
		}
		rating := cyclonedx.VulnerabilityRating{Severity: cyclonedxSeverity(v), Vector: v.Vector}
		if v.Score > 0 {
			rating.Score = &v.Score
		}
		index[v.ID] = len(out)
		out = append(out, cyclonedx.Vulnerability{
			ID: v.ID, Source: &cyclonedx.Source{Name: "OSV", URL: v.URL}, Description: v.Summary,
			Ratings: &[]cyclonedx.VulnerabilityRating{rating}, Affects: &[]cyclonedx.Affects{affects},
		})
	}
	return out
}

// cyclonedxSeverity has the same words but one.
func cyclonedxSeverity(v Vulnerability) cyclonedx.Severity {
	if s := v.Severity.String(); s != "negligible" {
		return cyclonedx.Severity(s)
	}
	return cyclonedx.SeverityInfo
}

// WriteCycloneDX writes the CycloneDX document as JSON.
func (r *Report) WriteCycloneDX(out io.Writer) error {
	return cyclonedx.NewBOMEncoder(out, cyclonedx.BOMFileFormatJSON).SetPretty(true).Encode(r.CycloneDX())
}

func hash(parts ...string) string {
	sum := sha256.Sum256([]byte(strings.Join(parts, "\x00")))
	return hex.EncodeToString(sum[:])
}
