package osvdb

import (
	"fmt"
	"strings"
	"testing"
)

// osvRecord is a record with all that osv.dev's export has (OSV schema 1.7), in whose
// archive each record is a file of its own.
func osvRecord(id, ecosystem, name, purl, kind, events, versions string) string {
	return fmt.Sprintf(`{"schema_version":"1.7.3","id":%q,"published":"2024-03-01T10:00:00Z","modified":"2025-11-03T22:16:56.123456Z",
		"aliases":["CVE-2024-%d"],"related":[],"summary":"A flaw in %s","details":"### Impact\nLong text.",
		"severity":[{"type":"CVSS_V3","score":"CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:H/I:H/A:H"},{"type":"CVSS_V4","score":"CVSS:4.0/AV:N/AC:L/AT:N/PR:N/UI:N/VC:H/VI:H/VA:H/SC:N/SI:N/SA:N"}],
		"affected":[{"package":{"ecosystem":%q,"name":%q,"purl":%q},"ranges":[{"type":%q,"events":[%s],"database_specific":{"last_known_affected_version_range":"<= 9"}}],
			"versions":[%s],"ecosystem_specific":{"affected_functions":[]},"database_specific":{"source":"https://example.com/advisory.json"}}],
		"references":[{"type":"ADVISORY","url":"https://nvd.nist.gov/vuln/detail/CVE"},{"type":"PACKAGE","url":"https://example.com"}],
		"credits":[{"name":"Ada","type":"FINDER"}],"database_specific":{"cwe_ids":["CWE-20"],"github_reviewed":true,"severity":"CRITICAL","nvd_published_at":null}}`,
		id, 1000+len(id)+len(name), name, ecosystem, name, purl, kind, events, versions)
}

// TestEachEcosystemIsMatchedByItsOwnVersions imports an archive as osv.dev has it and looks up
// what detectors find: packages of rpm and apk, of Java, Ruby, PHP, .NET, Rust and Go.
func TestEachEcosystemIsMatchedByItsOwnVersions(t *testing.T) {
	until := func(fixed string) string { return `{"introduced":"0"},{"fixed":"` + fixed + `"}` }
	const ecosystem, semver = "ECOSYSTEM", "SEMVER"
	db, err := Open(importRecords(t, zipped(t, map[string]string{
		"RHSA-2024:1.json":    osvRecord("RHSA-2024:1", "Red Hat:enterprise_linux:9::appstream", "nginx", "pkg:rpm/redhat/nginx", ecosystem, until("1:1.20.1-14.el9_2.1"), ""),
		"RHSA-2024:2.json":    osvRecord("RHSA-2024:2", "Red Hat:rhel_eus:9.2::baseos", "nginx", "pkg:rpm/redhat/nginx", ecosystem, until("2:9-1.el9"), ""),
		"RLSA-2024:1.json":    osvRecord("RLSA-2024:1", "Rocky Linux:9", "openssl", "pkg:rpm/rocky-linux/openssl?distro=rocky-linux-9", ecosystem, until("1:3.0.7-27.el9"), ""),
		"ALSA-2024:1.json":    osvRecord("ALSA-2024:1", "AlmaLinux:8", "curl", "pkg:rpm/almalinux/curl", ecosystem, until("7.61.1-34.el8"), ""),
		"SUSE-SU-1.json":      osvRecord("SUSE-SU-2024:1-1", "SUSE:Linux Enterprise Module for Basesystem 15 SP5", "zlib", "pkg:rpm/suse/zlib", ecosystem, until("1.2.13-150500.4.3.1"), ""),
		"openSUSE-SU-1.json":  osvRecord("openSUSE-SU-2024:1-1", "openSUSE:Leap 15.5", "zlib", "pkg:rpm/opensuse/zlib", ecosystem, until("1.2.13-150500.4.3.1"), ""),
		"ALPINE-1.json":       osvRecord("ALPINE-CVE-2024-1", "Alpine:v3.20", "busybox", "pkg:apk/alpine/busybox?arch=source", ecosystem, until("1.36.1-r29"), `"1.36.1-r27","1.36.1-r28"`),
		"GHSA-java.json":      osvRecord("GHSA-java", "Maven", "org.apache.logging.log4j:log4j-core", "pkg:maven/org.apache.logging.log4j/log4j-core", ecosystem, `{"introduced":"2.13.0"},{"fixed":"2.15.0"}`, `"2.13.0","2.14.1"`),
		"GHSA-ruby.json":      osvRecord("GHSA-ruby", "RubyGems", "rack", "pkg:gem/rack", ecosystem, until("2.2.6.4"), `"2.2.6.3"`),
		"GHSA-php.json":       osvRecord("GHSA-php", "Packagist", "Guzzlehttp/psr7", "pkg:composer/guzzlehttp/psr7", ecosystem, until("1.9.1"), `"v1.9.0"`),
		"GHSA-net.json":       osvRecord("GHSA-net", "NuGet", "Newtonsoft.Json", "pkg:nuget/Newtonsoft.Json", ecosystem, until("13.0.1"), `"12.0.3"`),
		"RUSTSEC-1.json":      osvRecord("RUSTSEC-2024-1", "crates.io", "hyper", "pkg:cargo/hyper", semver, `{"introduced":"0.0.0-0"},{"fixed":"0.14.10"}`, ""),
		"GO-2024-1.json":      osvRecord("GO-2024-1", "Go", "stdlib", "pkg:golang/stdlib", semver, `{"introduced":"0"},{"fixed":"1.21.9"},{"introduced":"1.22.0-0"},{"fixed":"1.22.2"}`, ""),
		"all/GHSA-deep.json":  osvRecord("GHSA-deep", "npm", "@scope/pkg", "pkg:npm/%40scope/pkg", semver, until("1.0.0"), ""),
		"modified_id.csv":     "2025-11-03T22:16:56Z,GHSA-java",
		"GIT/CVE-2024-1.json": `{"schema_version":"1.7.3","id":"CVE-2024-1","modified":"2025-01-01T00:00:00Z","affected":[{"ranges":[{"type":"GIT","repo":"https://example.com/x","events":[{"introduced":"0"}]}]}]}`,
	})))
	must(t, err)
	t.Cleanup(func() { _ = db.Close() })
	for _, c := range []struct{ ecosystem, name, version, want string }{
		{"Red Hat:enterprise_linux:9::baseos", "nginx", "1:1.20.1-14.el9", "RHSA-2024:1"},
		{"Red Hat:enterprise_linux:9.4::baseos", "nginx", "1:1.20.1-14.el9", "RHSA-2024:1"},
		{"Red Hat:enterprise_linux:9::baseos", "nginx", "1:1.20.1-14.el9_2.1", ""},
		{"Red Hat:enterprise_linux:8::baseos", "nginx", "1:1.14.1-9.el8", ""},
		{"Rocky Linux:9", "openssl", "1:3.0.7-16.el9_2", "RLSA-2024:1"},
		{"Rocky Linux:9", "openssl", "1:3.0.7-27.el9", ""},
		{"Rocky Linux:8", "openssl", "1:1.1.1k-9.el8", ""},
		{"AlmaLinux:8", "curl", "7.61.1-33.el8_9.5", "ALSA-2024:1"},
		{"AlmaLinux:8", "curl", "7.61.1-34.el8", ""},
		{"SUSE:15.5", "zlib", "1.2.13-150500.4.1", "SUSE-SU-2024:1-1"},
		{"SUSE:15.4", "zlib", "1.2.13-150500.4.1", ""},
		{"openSUSE:Leap 15.5", "zlib", "1.2.13-150500.4.1", "openSUSE-SU-2024:1-1"},
		{"openSUSE:Leap 15.5", "zlib", "1.2.13-150500.4.3.1", ""},
		{"Alpine:v3.20", "busybox", "1.36.1-r28", "ALPINE-CVE-2024-1"},
		{"Alpine:v3.20", "busybox", "1.36.1-r29", ""},
		{"Alpine:v3.19", "busybox", "1.36.1-r2", ""},
		{"Maven", "org.apache.logging.log4j:log4j-core", "2.14.1", "GHSA-java"},
		{"Maven", "org.apache.logging.log4j:log4j-core", "2.15.0-rc1", "GHSA-java"},
		{"Maven", "org.apache.logging.log4j:log4j-core", "2.12.4", ""},
		{"Maven", "org.apache.logging.log4j:log4j-api", "2.14.1", ""},
		{"RubyGems", "rack", "2.2.6.3", "GHSA-ruby"},
		{"RubyGems", "rack", "2.2.6.4", ""},
		{"RubyGems", "rack", "2.2.10", ""},
		{"Packagist", "guzzlehttp/psr7", "1.9.0", "GHSA-php"},
		{"Packagist", "guzzlehttp/psr7", "v1.8.0", "GHSA-php"},
		{"Packagist", "guzzlehttp/psr7", "1.9.1", ""},
		{"NuGet", "newtonsoft.json", "12.0.3", "GHSA-net"},
		{"NuGet", "Newtonsoft.Json", "13.0.1-beta2", "GHSA-net"},
		{"NuGet", "Newtonsoft.Json", "13.0.1", ""},
		{"crates.io", "hyper", "0.14.9", "RUSTSEC-2024-1"},
		{"crates.io", "hyper", "0.14.10", ""},
		{"Go", "stdlib", "1.22.1", "GO-2024-1"},
		{"Go", "stdlib", "1.21.9", ""},
		{"npm", "@scope/pkg", "1.0.0-rc.1", "GHSA-deep"},
		{"npm", "@scope/pkg", "1.0.0", ""},
	} {
		got, err := db.Match(Package{c.ecosystem, c.name, c.version})
		must(t, err)
		var ids []string
		for _, m := range got {
			ids = append(ids, m.ID)
			if m.Severity != Critical || m.Score < 9 || m.Fixed == "" || !strings.HasPrefix(m.Aliases[0], "CVE-") {
				t.Errorf("%s: %+v", m.ID, m)
			}
		}
		if s := strings.Join(ids, ", "); s != c.want {
			t.Errorf("%s %s %s: %q, want %q", c.ecosystem, c.name, c.version, s, c.want)
		}
	}
	if about := db.About(); about.Records != 15 || about.Skipped != 1 || about.Ecosystems["Red Hat"] != 2 {
		t.Errorf("about %+v", about)
	}
}
