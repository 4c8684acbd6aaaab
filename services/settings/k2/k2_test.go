package k2

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

var then = time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)

func mustKey(t testing.TB, kid string, fill byte) Key {
	t.Helper()
	k, err := KeyFrom(kid, bytes.Repeat([]byte{fill}, keySize), then)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func mustSeal(t testing.TB, k Key, node, configType string, s Setting) Sealed {
	t.Helper()
	sealed, err := k.Seal(node, configType, s)
	if err != nil {
		t.Fatal(err)
	}
	return sealed
}

// both are the two forms of one setting.
func both() map[string]Setting {
	return map[string]Setting{
		"plain":     {Value: []byte(`{"wake":"hey <jarvis>"}`)},
		"versioned": {Version: 7, Issued: then, Value: []byte(`{"wake":"hey <jarvis>"}`)},
	}
}

func TestSealAndOpen(t *testing.T) {
	k := mustKey(t, "k2-202611-abcdef", 1)
	for name, s := range both() {
		got, err := k.Open("kitchen", "node_config", mustSeal(t, k, "kitchen", "node_config", s))
		if err != nil || got.Version != s.Version || !got.Issued.Equal(s.Issued) || !bytes.Equal(got.Value, s.Value) {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
	huge := Setting{Version: 1, Issued: then, Value: []byte(`"` + strings.Repeat("<", MaxValue-2) + `"`)}
	if got, err := k.Open("kitchen", "x", mustSeal(t, k, "kitchen", "x", huge)); err != nil || len(got.Value) != MaxValue {
		t.Errorf("the largest value: %v", err)
	}
	huge.Value = append(huge.Value, ' ')
	if _, err := k.Seal("kitchen", "x", huge); !errors.Is(err, ErrMalformed) {
		t.Errorf("a larger value: %v", err)
	}
	if _, err := k.Seal("kitchen", "x", Setting{Version: 1, Value: []byte("{")}); !errors.Is(err, ErrMalformed) {
		t.Errorf("a value that is no JSON: %v", err)
	}
	if _, err := (Key{}).Seal("kitchen", "x", Setting{}); err == nil {
		t.Error("the zero key seals")
	}
}

// The vectors of c2sp.org/XAES-256-GCM.
func TestXAESVectors(t *testing.T) {
	for _, v := range []struct {
		fill     byte
		aad, out string
	}{
		{1, "", "ce546ef63c9cc60765923609b33a9a1974e96e52daf2fcf7075e2271"},
		{3, "c2sp.org/XAES-256-GCM", "986ec1832593df5443a179437fd083bf3fdb41abd740a21f71eb769d"},
	} {
		k := mustKey(t, "k2-202611-abcdef", v.fill)
		aead, short, err := k.sealer([]byte("ABCDEFGHIJKLMNOPQRSTUVWX"))
		if err != nil {
			t.Fatal(err)
		}
		if got := hex.EncodeToString(aead.Seal(nil, short, []byte("XAES-256-GCM"), []byte(v.aad))); got != v.out {
			t.Errorf("%d: %s", v.fill, got)
		}
	}
}

// class is the failure's class, in the words of the vectors.
func class(err error) string {
	for name, is := range map[string]error{"malformed": ErrMalformed, "forged": ErrForged, "rollback": ErrRollback,
		"conflict": ErrConflict, "unproven": ErrUnproven, "passphrase": ErrPassphrase} {
		if errors.Is(err, is) {
			return name
		}
	}
	return fmt.Sprint(err)
}

// refused opens what must not open and checks that nothing comes of it.
func refused(t *testing.T, what string, k Key, node, configType string, s Sealed, want error) {
	t.Helper()
	got, err := k.Open(node, configType, s)
	if !errors.Is(err, want) {
		t.Fatalf("%s: %v, not %v", what, err, want)
	}
	if got.Version != 0 || got.Value != nil || !got.Issued.IsZero() {
		t.Fatalf("%s: something was released: %+v", what, got)
	}
}

// TestC01_Damage truncates at every byte, extends, flips every bit and empties
// each part of a sealed setting.
func TestC01_Damage(t *testing.T) {
	k := mustKey(t, "k2-202611-abcdef", 1)
	for name, setting := range both() {
		whole := mustSeal(t, k, "kitchen", "node_config", setting)
		for _, part := range []struct {
			name  string
			of    func(*Sealed) *string
			sized bool // another length is another form
		}{
			{"ciphertext", func(s *Sealed) *string { return &s.Ciphertext }, false},
			{"nonce", func(s *Sealed) *string { return &s.Nonce }, true},
			{"tag", func(s *Sealed) *string { return &s.Tag }, true},
		} {
			raw, err := decode(part.name, *part.of(&whole))
			if err != nil {
				t.Fatal(err)
			}
			check := func(what string, b []byte) {
				t.Helper()
				s := whole
				*part.of(&s) = encode(b)
				want := ErrForged
				// A nonce of the other form's length is one of that form.
				if part.sized && len(b) != len(raw) && !(part.name == "nonce" && (len(b) == plainSize || len(b) == longSize)) {
					want = ErrMalformed
				}
				refused(t, name+" "+part.name+" "+what, k, "kitchen", "node_config", s, want)
			}
			for n := range raw {
				check(fmt.Sprint("cut to ", n), raw[:n])
				check(fmt.Sprint("without its first ", n+1), raw[n+1:])
				for bit := range 8 {
					b := bytes.Clone(raw)
					b[n] ^= 1 << bit
					check(fmt.Sprintf("bit %d of byte %d", bit, n), b)
				}
			}
			check("longer by 0", append(bytes.Clone(raw), 0))
			check("doubled", append(bytes.Clone(raw), raw...))
			damageText(t, k, whole, part.of)
		}
	}
}

// damageText writes a right part in a wrong way.
func damageText(t *testing.T, k Key, whole Sealed, part func(*Sealed) *string) {
	t.Helper()
	text := *part(&whole)
	last := strings.IndexByte("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_", text[len(text)-1])
	for _, bad := range []string{text + "=", text + "\n", "\r\n" + text, " " + text, text[:4] + "\n" + text[4:], text + "é", text[:4] + "+" + text[5:], text + "\x00"} {
		s := whole
		*part(&s) = bad
		refused(t, fmt.Sprintf("%q", bad), k, "kitchen", "node_config", s, ErrMalformed)
	}
	// Bits behind the last byte: a second text of the same bytes.
	if spare := len(text) * 6 % 8; spare != 0 {
		s := whole
		*part(&s) = text[:len(text)-1] + "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"[last|1:last|1+1]
		refused(t, "spare bits", k, "kitchen", "node_config", s, ErrMalformed)
	}
}

// TestC02_Swaps takes blobs to other nodes, types and keys.
func TestC02_Swaps(t *testing.T) {
	k, other := mustKey(t, "k2-202611-abcdef", 1), mustKey(t, "k2-202611-abcdef", 2)
	renamed := mustKey(t, "k2-202612-abcdef", 1)
	for name, setting := range both() {
		s := mustSeal(t, k, "kitchen", "auth:spotify", setting)
		refused(t, name+" of another node", k, "bedroom", "auth:spotify", s, ErrForged)
		refused(t, name+" of another type", k, "kitchen", "auth:gmail", s, ErrForged)
		refused(t, name+" as a snapshot", k, "kitchen", Snapshot, s, ErrForged)
		refused(t, name+" under another key", other, "kitchen", "auth:spotify", s, ErrForged)
		refused(t, name+" with no key", Key{}, "kitchen", "auth:spotify", s, ErrForged)
		// Where node and type meet must not be movable.
		for _, bad := range [][2]string{{"kitchen:auth", "spotify"}, {"kitchen:auth:spotify", ""}, {"", "kitchen:auth:spotify"}, {"kitchen", ""}, {"kitchen\x00", "auth:spotify"}, {"kitchen", "auth:spotify\n"}} {
			refused(t, name+fmt.Sprintf(" %q", bad), k, bad[0], bad[1], s, ErrMalformed)
		}
		twin := mustSeal(t, k, "kitchen", "auth:spotify", setting)
		for _, mixed := range []Sealed{{s.Ciphertext, twin.Nonce, s.Tag}, {s.Ciphertext, s.Nonce, twin.Tag}, {twin.Ciphertext, s.Nonce, s.Tag}} {
			refused(t, name+" mixed of two", k, "kitchen", "auth:spotify", mixed, ErrForged)
		}
	}
	s := mustSeal(t, k, "kitchen", "x", both()["versioned"])
	refused(t, "the same secret under another id", renamed, "kitchen", "x", s, ErrForged)
	// The two forms are two ciphers: neither nonce opens the other's.
	plain := mustSeal(t, k, "kitchen", "x", both()["plain"])
	long, _ := decode("nonce", s.Nonce)
	refused(t, "versioned as plain", k, "kitchen", "x", Sealed{s.Ciphertext, encode(long[plainSize:]), s.Tag}, ErrForged)
	short, _ := decode("nonce", plain.Nonce)
	refused(t, "plain as versioned", k, "kitchen", "x", Sealed{plain.Ciphertext, encode(append(short, short...)), plain.Tag}, ErrForged)
}

// TestC02_InsideIsOneForm seals plaintexts that are nearly a versioned setting.
func TestC02_InsideIsOneForm(t *testing.T) {
	k := mustKey(t, "k2-202611-abcdef", 1)
	for _, text := range []string{
		``, `{}`, `null`, `[]`, `{"v":1,"kid":"k2-202611-abcdef","version":1,"issued":1,"value":1}`,
		`{"v":2,"kid":"k2-202611-abcdef","version":0,"issued":1,"value":1}`,
		`{"v":2,"kid":"k2-202611-abcdef","version":-1,"issued":1,"value":1}`,
		`{"v":2,"kid":"k2-202611-abcdef","version":1.5,"issued":1,"value":1}`,
		`{"v":2,"kid":"k2-202611-abcdef","version":18446744073709551616,"issued":1,"value":1}`,
		`{"v":2,"kid":"k2-202611-abcdef","version":1,"version":9,"issued":1,"value":1}`,
		`{"v":2,"kid":"k2-202611-abcdef","version":1,"issued":1}`,
		`{"v":2,"kid":"k2-202611-abcdef","version":1,"issued":1,"value":1,"more":1}`,
		`{"v":2,"kid":"k2-202611-abcdef","version":1,"issued":1,"value":1} {}`,
		` {"v":2,"kid":"k2-202611-abcdef","version":1,"issued":1,"value":1}`,
		`{"V":2,"kid":"k2-202611-abcdef","version":1,"issued":1,"value":1}`,
	} {
		aad, _ := label("kitchen", "x")
		nonce := bytes.Repeat([]byte{9}, longSize)
		aead, short, _ := k.sealer(nonce)
		out := aead.Seal(nil, short, []byte(text), aad)
		cut := len(out) - tagSize
		refused(t, text, k, "kitchen", "x", Sealed{encode(out[:cut]), encode(nonce), encode(out[cut:])}, ErrMalformed)
	}
}

func TestKeysKeepSilent(t *testing.T) {
	k := mustKey(t, "k2-202611-abcdef", 0x41)
	n, err := NewNodeKey()
	if err != nil {
		t.Fatal(err)
	}
	printed := fmt.Sprintf("%v %+v %#v %s %v %+v %#v", k, k, k, k, n, n, n)
	for _, secret := range [][]byte{k.Reveal(), n.Reveal()} {
		for _, form := range []string{string(secret), hex.EncodeToString(secret), encode(secret), fmt.Sprint(secret)} {
			if strings.Contains(printed, form) {
				t.Errorf("a key prints itself: %s", printed)
			}
		}
	}
	if _, err := k.MarshalJSON(); err == nil {
		t.Error("a key writes itself as JSON")
	}
	for _, kid := range []string{"", "k2-2026-abcdef", "k2-202611-abcde", "k2-202611-abcdeé", "K2-202611-abcdef", "k2-202611-abcdef\n"} {
		if _, err := KeyFrom(kid, bytes.Repeat([]byte{1}, 32), then); !errors.Is(err, ErrMalformed) {
			t.Errorf("kid %q: %v", kid, err)
		}
	}
	for _, secret := range [][]byte{nil, make([]byte, 32), bytes.Repeat([]byte{1}, 31), bytes.Repeat([]byte{1}, 33)} {
		if _, err := KeyFrom("k2-202611-abcdef", secret, then); !errors.Is(err, ErrMalformed) {
			t.Errorf("%d bytes: %v", len(secret), err)
		}
	}
}
