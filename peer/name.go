package peer

import (
	"fmt"
	"strings"
)

// Names are plain ASCII on purpose: a look-alike letter from another alphabet
// or a control character cannot be written, so it cannot deceive anybody.

// MaxName is the longest name, in bytes: one DNS label (RFC 1035, 2.3.4).
const MaxName = 63

// ValidName accepts a peer's, service's or household's name: one lower-case
// DNS label.
func ValidName(s string) error {
	if s == "" {
		return fmt.Errorf("the name is empty; use lower-case letters, digits and hyphens, as in \"kitchen-pi\"")
	}
	if len(s) > MaxName {
		return fmt.Errorf("the name is %d bytes long; the most is %d", len(s), MaxName)
	}
	for i := range len(s) {
		c := s[i]
		switch {
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9':
		case c == '-' && i > 0 && i < len(s)-1:
		default:
			return fmt.Errorf("the name has %q at position %d; use lower-case letters, digits and hyphens inside, as in \"kitchen-pi\"", c, i+1)
		}
	}
	return nil
}

// ValidTag accepts "tag:" and a name.
func ValidTag(s string) error {
	name, ok := strings.CutPrefix(s, "tag:")
	if !ok {
		return fmt.Errorf("a tag starts with \"tag:\", as in \"tag:speaker\"")
	}
	return ValidName(name)
}

// ValidUser accepts a user: a name, or an address such as ann@example.org.
func ValidUser(s string) error {
	local, domain, at := strings.Cut(s, "@")
	if !at {
		return ValidName(s)
	}
	if len(s) > 254 {
		return fmt.Errorf("the user is %d bytes long; the most is 254", len(s))
	}
	for _, part := range append(strings.Split(local, "."), strings.Split(domain, ".")...) {
		if err := ValidName(strings.ReplaceAll(strings.ReplaceAll(part, "+", "-"), "_", "-")); err != nil {
			return fmt.Errorf("user %.80q: %w", s, err)
		}
	}
	return nil
}
