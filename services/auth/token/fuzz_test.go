package token_test

import (
	"encoding/json"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/warrenmesh/warren/services/auth/token"
)

// FuzzVerify holds Verify to its law: nothing is accepted that Sign of this
// ring did not make, byte for byte. Changes go in as text, and below the
// base64, where a mutated byte stays a well-formed token.
func FuzzVerify(f *testing.F) {
	k := newKit(f)
	made := make(map[string]bool)
	for range 8 {
		raw := k.sign(f, good())
		made[raw] = true
		p := strings.Split(raw, ".")
		f.Add(raw, unb64(f, p[0]), unb64(f, p[1]), unb64(f, p[2]))
	}
	f.Fuzz(func(t *testing.T, raw string, header, payload, sig []byte) {
		for _, raw := range []string{raw, b64(header) + "." + b64(payload) + "." + b64(sig)} {
			if c, err := k.ring.Verify(raw, want); err == nil && !made[raw] {
				t.Fatalf("accepted %q as %+v", raw, c)
			}
			_, _ = token.VerifyHS256(secret, raw, start)
		}
	})
}

// FuzzClaims signs any payload with the ring's own key, as if the signer could
// be talked into it. What is accepted then must be what another reader of JSON
// finds there, in its time and for us.
func FuzzClaims(f *testing.F) {
	k := newKit(f)
	f.Add(k.payload(f))
	for _, member := range []string{"iss", "sub", "aud", "exp", "iat", "nbf", "cnf", "role"} {
		for _, v := range []string{"", "null", "1", "1e9", `"x"`, `["warren"]`, "{}", "1772366400", "9223372036854775808"} {
			f.Add(k.with(f, member, v))
		}
	}
	f.Fuzz(func(t *testing.T, payload string) {
		c, err := k.ring.Verify(k.forge(t, k.header(), payload), want)
		if err != nil {
			return
		}
		var m map[string]any
		if err := json.Unmarshal([]byte(payload), &m); err != nil {
			t.Fatalf("accepted what is no JSON: %q", payload)
		}
		exp, _ := m["exp"].(float64)
		iat, _ := m["iat"].(float64)
		now := float64(start.Unix())
		if m["iss"] != issuer || m["aud"] != "warren" || m["sub"] != c.Subject || m["sub"] == "" || exp != math.Trunc(exp) ||
			now >= exp+30 || iat > now+30 || exp-iat > token.MaxLife.Seconds() || c.Peer.IsZero() || c.Session == "" || c.Expires.Sub(c.Issued) > time.Hour {
			t.Fatalf("accepted %q as %+v", payload, c)
		}
	})
}
