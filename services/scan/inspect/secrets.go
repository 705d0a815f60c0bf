package inspect

import (
	"bytes"
	"path"
	"strings"

	"github.com/google/osv-scalibr/veles"
	"github.com/google/osv-scalibr/veles/secrets/anthropicapikey"
	"github.com/google/osv-scalibr/veles/secrets/awsaccesskey"
	"github.com/google/osv-scalibr/veles/secrets/dockerhubpat"
	"github.com/google/osv-scalibr/veles/secrets/gcpsak"
	"github.com/google/osv-scalibr/veles/secrets/github"
	"github.com/google/osv-scalibr/veles/secrets/gitlabpat"
	"github.com/google/osv-scalibr/veles/secrets/hashicorpvault"
	"github.com/google/osv-scalibr/veles/secrets/huggingfaceapikey"
	"github.com/google/osv-scalibr/veles/secrets/npmjsaccesstoken"
	"github.com/google/osv-scalibr/veles/secrets/openai"
	"github.com/google/osv-scalibr/veles/secrets/privatekey"
	"github.com/google/osv-scalibr/veles/secrets/pypiapitoken"
	"github.com/google/osv-scalibr/veles/secrets/sendgrid"
	"github.com/google/osv-scalibr/veles/secrets/slacktoken"
	"github.com/google/osv-scalibr/veles/secrets/stripeapikeys"
)

// secretRule is one kind of secret. Of the library's detectors these are the ones
// whose secrets have a form of their own, so that what they find is one.
type secretRule struct {
	kind string
	hint []string // one of these is in every such secret; searched first, being fast
	find veles.Detector
}

// secretRules is filled when first used: compiling the expressions takes time that
// only a scan shall pay.
func secretRules() []secretRule {
	return []secretRule{
		{"private key", []string{"PRIVATE KEY-----"}, privatekey.NewDetector()},
		{"AWS access key", []string{"AKIA", "ASIA"}, awsaccesskey.NewDetector()},
		{"Google Cloud service account key", []string{"private_key_id"}, gcpsak.NewDetector()},
		{"GitHub token", []string{"ghp_"}, github.NewClassicPATDetector()},
		{"GitHub token", []string{"github_pat_"}, github.NewFineGrainedPATDetector()},
		{"GitHub token", []string{"gho_"}, github.NewOAuthTokenDetector()},
		{"GitHub token", []string{"ghs_"}, github.NewAppS2STokenDetector()},
		{"GitLab token", []string{"glpat-"}, gitlabpat.NewDetector()},
		{"npm token", []string{"npm_"}, npmjsaccesstoken.NewDetector()},
		{"PyPI token", []string{"pypi-"}, pypiapitoken.NewDetector()},
		{"Docker Hub token", []string{"dckr_pat_"}, dockerhubpat.NewDetector()},
		{"Slack token", []string{"xapp-"}, slacktoken.NewAppLevelTokenDetector()},
		{"Slack token", []string{"xoxb-", "xoxp-", "xoxe."}, slacktoken.NewAppConfigAccessTokenDetector()},
		{"Stripe key", []string{"sk_live_", "sk_test_"}, stripeapikeys.NewSecretKeyDetector()},
		{"Vault token", []string{"hvs.", "hvb."}, hashicorpvault.NewTokenDetector()},
		{"OpenAI key", []string{"sk-"}, openai.NewDetector()},
		{"Anthropic key", []string{"sk-ant-"}, anthropicapikey.NewDetector()},
		{"Hugging Face token", []string{"hf_"}, huggingfaceapikey.NewDetector()},
		{"SendGrid key", []string{"SG."}, sendgrid.NewDetector()},
	}
}

// mayHoldSecrets passes over what is not text, and what is published with a
// program: documentation and the tests of libraries hold keys that are no secret.
func mayHoldSecrets(name string, head []byte) bool {
	if len(head) == 0 || bytes.IndexByte(head[:min(len(head), 8<<10)], 0) >= 0 {
		return false
	}
	for _, dir := range []string{"usr/share/doc/", "usr/share/man/", "usr/share/locale/", "usr/share/perl/", "usr/share/zoneinfo/", "usr/share/ca-certificates/", "var/lib/dpkg/info/"} {
		if strings.HasPrefix(name, dir) {
			return false
		}
	}
	for _, part := range strings.Split(path.Dir(name), "/") {
		switch part {
		case "test", "tests", "testdata", "fixtures", "examples":
			return !strings.HasPrefix(name, "usr/lib/") && !strings.Contains(name, "node_modules/") && !strings.Contains(name, "site-packages/")
		}
	}
	return true
}

// secrets looks for secrets in a file.
func (s *scan) secrets(name string, text []byte) {
	for _, found := range s.secretsIn(text) {
		if len(s.found.Secrets) >= maxSecretCount {
			s.note("%s and others may hold more secrets: only the first %d are listed", name, maxSecretCount)
			return
		}
		s.remember(name)
		found.Path, found.Layer = name, s.index
		s.found.Secrets = append(s.found.Secrets, found)
	}
}

// secretsIn returns kind and line of what it finds: never the secret itself.
func (s *scan) secretsIn(text []byte) (out []Secret) {
	if s.rules == nil {
		s.rules = secretRules()
	}
	seen := map[Secret]bool{}
	for _, rule := range s.rules {
		if !hinted(text, rule.hint) {
			continue
		}
		_, places := rule.find.Detect(text)
		for _, at := range places {
			found := Secret{Kind: rule.kind, Line: 1 + bytes.Count(text[:at], []byte("\n"))}
			if !seen[found] {
				seen[found] = true
				out = append(out, found)
			}
		}
	}
	return out
}

func hinted(text []byte, hints []string) bool {
	for _, h := range hints {
		if bytes.Contains(text, []byte(h)) {
			return true
		}
	}
	return false
}

// SecretsIn returns the kinds of secrets in a text that is not a file of a layer,
// such as an image's environment.
func SecretsIn(text string) []Secret { return newScan(Options{}).secretsIn([]byte(text)) }
