package guard

// Harden changes the head of responses so that browsers and attackers get less.
type Harden struct {
	// Set are fields that replace the backend's; Secure those that are sent over TLS only.
	Set, Secure []ClaimField
	// Remove are fields that are not passed on.
	Remove []string
}
