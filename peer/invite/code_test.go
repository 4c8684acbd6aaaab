package invite

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/warrenmesh/warren/peer"
)

func newKey(t testing.TB) peer.PrivateKey {
	t.Helper()
	k, err := peer.NewPrivateKey()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func newPSK(t testing.TB) peer.PresharedKey {
	t.Helper()
	k, err := peer.NewPresharedKey()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func testCode(t testing.TB, endpoint string) Code {
	t.Helper()
	hub := newKey(t)
	key := newKey(t)
	psk := newPSK(t)
	return Code{
		Endpoint: endpoint, Hub: hub.Public(), Key: key, PSK: psk, Pin: [32]byte{1},
		V4: netip.MustParseAddr("10.77.254.3"), V6: netip.MustParseAddr("fd00:1:2:3::fe03"),
		EnrolV4: netip.MustParseAddr("10.77.0.2"), EnrolV6: netip.MustParseAddr("fd00:1:2:3::2"),
		Expires: time.Date(2027, 1, 2, 3, 4, 5, 0, time.UTC), ID: "inv-1",
	}
}

func TestCodeRoundTrip(t *testing.T) {
	for _, endpoint := range []string{"192.0.2.1:51820", "[2001:db8::1]:1", "hub.example.org:65535", "localhost:51820"} {
		c := testCode(t, endpoint)
		text := c.Reveal()
		got, err := Parse(text)
		if err != nil {
			t.Fatalf("%s: %v", endpoint, err)
		}
		same(t, c, got)
		if again := got.Reveal(); again != text {
			t.Errorf("%s: re-encoded to another text", endpoint)
		}
	}
}

// same compares field by field, because secrets do not compare with ==.
func same(t testing.TB, a, b Code) {
	t.Helper()
	if a.Key.Reveal() != b.Key.Reveal() || a.PSK.Reveal() != b.PSK.Reveal() {
		t.Error("the keys differ")
	}
	if !a.Expires.Equal(b.Expires) || a.Hub != b.Hub || a.Endpoint != b.Endpoint || a.ID != b.ID || a.Pin != b.Pin {
		t.Error("the hub's description differs")
	}
	if a.V4 != b.V4 || a.V6 != b.V6 || a.EnrolV4 != b.EnrolV4 || a.EnrolV6 != b.EnrolV6 {
		t.Error("the addresses differ")
	}
}

func TestCodeRefuses(t *testing.T) {
	good := testCode(t, "192.0.2.1:51820")
	text := good.Reveal()
	with := func(change func(*Code)) string {
		c := good
		change(&c)
		return c.Reveal()
	}
	for name, tc := range map[string]struct{ text, says string }{
		"empty":            {"", "no invite code"},
		"words":            {"hello there", "no invite code"},
		"other version":    {"warren2" + text[7:], "another version"},
		"upper case":       {"WARREN1" + text[7:], "no invite code"},
		"truncated":        {text[:len(text)-1], "copy it again"},
		"half":             {text[:len(text)/2], "copy it again"},
		"one more":         {text + "A", "copy it again"},
		"line end":         {text + "\n", "copy it again"},
		"line end inside":  {text[:40] + "\r\n" + text[40:], "copy it again"},
		"leading space":    {" " + text, "no invite code"},
		"padding":          {text + "=", "copy it again"},
		"NUL":              {text[:20] + "\x00" + text[21:], "copy it again"},
		"look-alike":       {text[:20] + "а" + text[21:], "copy it again"},
		"a megabyte":       {"warren1" + strings.Repeat("A", 1<<20), "too many"},
		"zero hub":         {with(func(c *Code) { c.Hub = peer.PublicKey{} }), "low order"},
		"zero key":         {with(func(c *Code) { c.Key = peer.PrivateKey{} }), "all-zero"},
		"zero PSK":         {with(func(c *Code) { c.PSK = peer.PresharedKey{} }), "all-zero"},
		"hub's own key":    {with(func(c *Code) { c.Hub = c.Key.Public() }), "hub's own key"},
		"no pin":           {with(func(c *Code) { c.Pin = [32]byte{} }), "key is missing"},
		"mapped v6":        {with(func(c *Code) { c.V6 = netip.MustParseAddr("::ffff:10.0.0.1") }), "addresses"},
		"enrol is invite":  {with(func(c *Code) { c.EnrolV4 = c.V4 }), "addresses"},
		"no expiry":        {with(func(c *Code) { c.Expires = time.Time{} }), "expiry"},
		"expiry too far":   {with(func(c *Code) { c.Expires = time.Unix(maxExpires+1, 0) }), "expiry"},
		"no id":            {with(func(c *Code) { c.ID = "" }), "number"},
		"long id":          {with(func(c *Code) { c.ID = strings.Repeat("x", 65) }), "number"},
		"control id":       {with(func(c *Code) { c.ID = "a\x1b[2J" }), "number"},
		"no port":          {with(func(c *Code) { c.Endpoint = "192.0.2.1" }), "host:port"},
		"port 0":           {with(func(c *Code) { c.Endpoint = "192.0.2.1:0" }), "1 to 65535"},
		"port 65536":       {with(func(c *Code) { c.Endpoint = "192.0.2.1:65536" }), "1 to 65535"},
		"port 051820":      {with(func(c *Code) { c.Endpoint = "192.0.2.1:051820" }), "1 to 65535"},
		"unspecified":      {with(func(c *Code) { c.Endpoint = "0.0.0.0:51820" }), "reached"},
		"multicast":        {with(func(c *Code) { c.Endpoint = "[ff02::1]:51820" }), "reached"},
		"host with spaces": {with(func(c *Code) { c.Endpoint = "a b:1" }), "host name"},
		"host with escape": {with(func(c *Code) { c.Endpoint = "a\x1b:1" }), "host name"},
		"empty host":       {with(func(c *Code) { c.Endpoint = ":51820" }), "host name"},
		"long host":        {with(func(c *Code) { c.Endpoint = strings.Repeat("a.", 127) + ":51820" }), ""},
	} {
		_, err := Parse(tc.text)
		if err == nil {
			t.Errorf("%s: accepted", name)
			continue
		}
		if !strings.Contains(err.Error(), tc.says) {
			t.Errorf("%s: says %q, should mention %q", name, err, tc.says)
		}
		if strings.ContainsAny(err.Error(), "\x00\x1b\n") || len(err.Error()) > 300 {
			t.Errorf("%s: the error is not one plain sentence: %q", name, err)
		}
	}
}

// TestE02_BitFlips: whatever single bit of a code is flipped, it is refused
// before anything is sent.
func TestE02_BitFlips(t *testing.T) {
	text := testCode(t, "192.0.2.1:51820").Reveal()
	for i := range len(text) {
		for bit := range 8 {
			b := []byte(text)
			b[i] ^= 1 << bit
			if _, err := Parse(string(b)); err == nil {
				t.Fatalf("accepted with bit %d of byte %d flipped", bit, i)
			}
		}
	}
}

func TestCodeIsNotPrinted(t *testing.T) {
	c := testCode(t, "192.0.2.1:51820")
	secrets := []string{c.Key.RevealText(), c.PSK.RevealText(), c.Reveal()[7:60]}
	raw := c.Key.Reveal()
	secrets = append(secrets, fmt.Sprintf("%x", raw[:4]), base64.StdEncoding.EncodeToString(raw[:9]))
	var log strings.Builder
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "code", c, "pointer", &c)
	printed := fmt.Sprintf("%v %+v %#v %s %x %v", c, c, c, c, c, &c) + log.String()
	for _, s := range secrets {
		if strings.Contains(printed, s) {
			t.Errorf("printed a secret: %s", printed)
		}
	}
	if _, err := json.Marshal(c); err == nil {
		t.Error("a code marshals to JSON")
	}
}

// FuzzCode holds the law of the code: whatever Parse accepts is exactly what
// Reveal writes for it, so there is one text for each code and no hidden data.
func FuzzCode(f *testing.F) {
	f.Add(testCode(f, "192.0.2.1:51820").Reveal())
	f.Add(testCode(f, "[2001:db8::1]:51820").Reveal())
	f.Add(testCode(f, "hub.example.org:443").Reveal())
	f.Add("warren1")
	f.Add("warren1AAAA")
	f.Fuzz(func(t *testing.T, text string) {
		check := func(text string) {
			c, err := Parse(text)
			if err != nil {
				return
			}
			if got := c.Reveal(); got != text {
				t.Errorf("accepted %q, wrote %q", text, got)
			}
			again, err := Parse(c.Reveal())
			if err != nil {
				t.Fatal(err)
			}
			same(t, c, again)
		}
		check(text)
		// A fuzzer does not guess checksums: give its bytes the right one.
		body, ok := strings.CutPrefix(text, prefix)
		b, err := base64.RawURLEncoding.DecodeString(body)
		if !ok || err != nil || len(b) < checksumLen {
			return
		}
		sum := checksum(b[:len(b)-checksumLen])
		check(prefix + base64.RawURLEncoding.EncodeToString(append(b[:len(b)-checksumLen], sum[:]...)))
	})
}
