package token_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"go/parser"
	gotoken "go/token"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/golang-jwt/jwt/v5"

	"github.com/warrenmesh/warren/services/auth/token"
)

func TestJ01_AlgorithmsThatAreNone(t *testing.T) {
	k := newKit(t)
	if _, err := k.ring.Verify(k.forge(t, k.header(), k.payload(t)), want); err != nil {
		t.Fatalf("the kit cannot sign: %v", err)
	}
	for _, alg := range []string{`"none"`, `"None"`, `"nOnE"`, `"NONE"`, `""`, `null`, `[]`, `{}`, `0`, `true`, `"es256"`, `"ES256 "`, `["ES256"]`} {
		header := strings.Replace(k.header(), `"ES256"`, alg, 1)
		raw := k.forge(t, header, k.payload(t))
		k.refused(t, raw, "alg "+alg)
		k.refused(t, raw[:strings.LastIndexByte(raw, '.')+1], "alg "+alg+" without a signature")
	}
	k.refused(t, k.forge(t, `{"kid":"`+k.stored.ID+`","typ":"at+jwt"}`, k.payload(t)), "no alg")
	for _, typ := range []string{`"JWT"`, `"jwt"`, `"AT+JWT"`, `"application/at+jwt"`, `""`, `null`} {
		k.refused(t, k.forge(t, strings.Replace(k.header(), `"at+jwt"`, typ, 1), k.payload(t)), "typ "+typ)
	}
	k.refused(t, k.forge(t, `{"alg":"ES256","kid":"`+k.stored.ID+`"}`, k.payload(t)), "no typ")
}

func TestJ01_FormsOfSerialisation(t *testing.T) {
	k := newKit(t)
	raw := k.sign(t, good())
	p := strings.Split(raw, ".")
	for what, other := range map[string]string{
		"nothing":            "",
		"dots":               "..",
		"two parts":          p[0] + "." + p[1],
		"four parts":         raw + ".",
		"five parts":         strings.Join([]string{p[0], p[1], p[2], p[0], p[1]}, "."),
		"general JSON":       `{"payload":"` + p[1] + `","signatures":[{"protected":"` + p[0] + `","signature":"` + p[2] + `"}]}`,
		"flattened JSON":     `{"payload":"` + p[1] + `","protected":"` + p[0] + `","signature":"` + p[2] + `"}`,
		"a blank before":     " " + raw,
		"a line break after": raw + "\n",
		"Bearer":             "Bearer " + raw,
		"no header":          "." + p[1] + "." + p[2],
		"no payload":         p[0] + ".." + p[2],
		"no signature":       p[0] + "." + p[1] + ".",
		"4097 bytes":         raw + strings.Repeat("A", token.MaxToken-len(raw)+1),
	} {
		k.refused(t, other, what)
	}
}

func TestJ01_OneSpellingOfBase64(t *testing.T) {
	k := newKit(t)
	raw := k.sign(t, good())
	parts := strings.Split(raw, ".")
	for i := range parts {
		for what, change := range map[string]func(string) string{
			"padding":         func(s string) string { return s + "=" },
			"padding twice":   func(s string) string { return s + "==" },
			"a line break":    func(s string) string { return s[:4] + "\n" + s[4:] },
			"a carriage":      func(s string) string { return s[:4] + "\r" + s[4:] },
			"breaks at end":   func(s string) string { return s + "\r\n" },
			"a blank":         func(s string) string { return s[:4] + " " + s[4:] },
			"a zero byte":     func(s string) string { return s + "\x00" },
			"plus":            func(s string) string { return s[:4] + "+" + s[5:] },
			"slash":           func(s string) string { return s[:4] + "/" + s[5:] },
			"percent":         func(s string) string { return s[:4] + "%41" + s[5:] },
			"one more letter": func(s string) string { return s + "A" },
		} {
			other := append([]string(nil), parts...)
			other[i] = change(parts[i])
			k.refused(t, strings.Join(other, "."), fmt.Sprintf("part %d with %s", i, what))
		}
	}
	// 64 bytes end in a letter of which only two bits count.
	last := strings.IndexByte(letters, raw[len(raw)-1])
	for stray := range 16 {
		if other := raw[:len(raw)-1] + string(letters[last&^15|stray]); other != raw {
			k.refused(t, other, "stray bits "+fmt.Sprint(stray))
		}
	}
}

const letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"

func TestJ01_EachMemberOnce(t *testing.T) {
	k := newKit(t)
	id, payload := k.stored.ID, k.payload(t)
	for _, header := range []string{
		`{"alg":"ES256","alg":"ES256","kid":"` + id + `","typ":"at+jwt"}`,
		`{"alg":"none","alg":"ES256","kid":"` + id + `","typ":"at+jwt"}`,
		`{"alg":"ES256","\u0061lg":"ES256","kid":"` + id + `","typ":"at+jwt"}`,
		`{"alg":"ES256","Alg":"none","kid":"` + id + `","typ":"at+jwt"}`,
		`{"alg":"ES256","ALG":"ES256","kid":"` + id + `","typ":"at+jwt"}`,
		`{"ALG":"ES256","kid":"` + id + `","typ":"at+jwt"}`,
		`{"alg":"ES256","kid":"x","kid":"` + id + `","typ":"at+jwt"}`,
		`{"alg":"ES256","kid":"` + id + `","typ":"JWT","typ":"at+jwt"}`,
		k.header() + k.header(), k.header() + " x", "[" + k.header() + "]", `"x"`, `null`, `{`, `{}`, ``,
		`{"alg":"ES256","kid":"` + id + `","typ":"at+jwt",}`,
		"{\"alg\":\"ES256\",\"kid\":\"" + id + "\",\"typ\":\"at+jwt\xff\"}",
	} {
		k.refused(t, k.forge(t, header, payload), "header "+header)
	}
	inside := strings.TrimSuffix(payload, "}")
	for _, other := range []string{
		inside + `,"sub":"1"}`, inside + `,"sub":"7"}`, inside + `,"Sub":"1"}`, inside + `,"\u0073ub":"1"}`,
		inside + `,"exp":4102444800}`, inside + `,"cnf":{"wg":"x"}}`, inside + `,"is_superuser":true}`,
		strings.Replace(payload, `"sub"`, `"SUB"`, 1), strings.Replace(payload, `{"wg":`, `{"wg":"x","wg":`, 1),
		strings.Replace(payload, `{"wg":`, `{"x":1,"wg":`, 1), strings.Replace(payload, `"wg"`, `"WG"`, 1),
		payload + payload, payload + "x", "[" + payload + "]", "null", "{}", "1", `"x"`, strings.Replace(payload, "phone", "ph\xffne", 1),
	} {
		k.refused(t, k.forge(t, k.header(), other), "payload "+other)
	}
}

// TestJ02_PublicKeyAsSecret signs with HMAC under every form of our public key
// that a verifier could have at hand.
func TestJ02_PublicKeyAsSecret(t *testing.T) {
	k := newKit(t)
	der, err := x509.MarshalPKIXPublicKey(&k.key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	point, err := k.key.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	var set struct{ Keys []json.RawMessage }
	if err := json.Unmarshal(k.ring.JWKS(), &set); err != nil {
		t.Fatal(err)
	}
	block := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
	secrets := [][]byte{block, []byte(strings.TrimSpace(string(block))), der, point, point[1:], set.Keys[0], k.ring.JWKS(), []byte(k.stored.ID), {}}
	for i, secret := range secrets {
		for _, m := range []*jwt.SigningMethodHMAC{jwt.SigningMethodHS256, jwt.SigningMethodHS384, jwt.SigningMethodHS512} {
			for _, alg := range []string{m.Alg(), "ES256"} {
				text := b64([]byte(strings.Replace(k.header(), "ES256", alg, 1))) + "." + b64([]byte(k.payload(t)))
				sig, err := m.Sign(text, secret)
				if err != nil {
					t.Fatal(err)
				}
				k.refused(t, text+"."+b64(sig), fmt.Sprintf("%s as %s under secret %d", m.Alg(), alg, i))
			}
		}
	}
}

func TestJ02_OtherAlgorithms(t *testing.T) {
	k := newKit(t)
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p256, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		m   jwt.SigningMethod
		key crypto.Signer
	}{
		{jwt.SigningMethodRS256, rsaKey}, {jwt.SigningMethodPS256, rsaKey}, {jwt.SigningMethodES384, p384},
		{jwt.SigningMethodES256, p256}, {jwt.SigningMethodEdDSA, ed},
	} {
		for _, alg := range []string{c.m.Alg(), "ES256"} {
			text := b64([]byte(strings.Replace(k.header(), "ES256", alg, 1))) + "." + b64([]byte(k.payload(t)))
			sig, err := c.m.Sign(text, c.key)
			if err != nil {
				t.Fatal(err)
			}
			k.refused(t, text+"."+b64(sig), c.m.Alg()+" as "+alg)
		}
	}
}

func TestJ03_KeyIDs(t *testing.T) {
	k := newKit(t)
	id := k.stored.ID
	for _, kid := range []string{
		"", "x", "../../dev/null", "/dev/null", "/etc/passwd", "file:///etc/passwd", "https://auth.warren.internal/jwks.json", "|id",
		"' OR '1'='1", id + `' --`, id + " ", " " + id, id + `\u0000`, strings.ToUpper(id), strings.ToLower(id), id[:len(id)-1], id + "=",
		strings.Repeat("A", 1<<20), strings.Repeat("A", 2000),
	} {
		k.refused(t, k.forge(t, `{"alg":"ES256","kid":"`+kid+`","typ":"at+jwt"}`, k.payload(t)), fmt.Sprintf("kid %.40s", kid))
	}
	for _, kid := range []string{"null", "1", "[]", `["` + id + `"]`, "{}", "true"} {
		k.refused(t, k.forge(t, `{"alg":"ES256","kid":`+kid+`,"typ":"at+jwt"}`, k.payload(t)), "kid "+kid)
	}
	k.refused(t, k.forge(t, `{"alg":"ES256","typ":"at+jwt"}`, k.payload(t)), "no kid")
	var set struct{ Keys []json.RawMessage }
	if err := json.Unmarshal(k.ring.JWKS(), &set); err != nil {
		t.Fatal(err)
	}
	inside := strings.TrimSuffix(k.header(), "}")
	for _, more := range []string{
		`"jku":"https://auth.warren.internal/jwks.json"`, `"x5u":"https://evil.example/"`, `"jwk":` + string(set.Keys[0]), `"x5c":[]`,
		`"x5t":"x"`, `"crit":[]`, `"crit":["b64"]`, `"b64":false`, `"zip":"DEF"`, `"cty":"JWT"`, `"x":1`, `"":""`,
	} {
		k.refused(t, k.forge(t, inside+","+more+"}", k.payload(t)), "header "+more)
	}
}

// TestJ03_NothingIsOpened: the package has nothing to open a file or a
// connection with, so no token can make it.
func TestJ03_NothingIsOpened(t *testing.T) {
	files, err := filepath.Glob("*.go")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		f, err := parser.ParseFile(gotoken.NewFileSet(), name, text, parser.ImportsOnly)
		if err != nil {
			t.Fatal(err)
		}
		for _, spec := range f.Imports {
			path := strings.Trim(spec.Path.Value, `"`)
			for _, bad := range []string{"os", "net", "syscall", "database", "io/fs", "embed", "plugin", "context"} {
				if path == bad || strings.HasPrefix(path, bad+"/") {
					t.Errorf("%s imports %s", name, path)
				}
			}
		}
	}
}

func twinOf(n, s *big.Int) *big.Int { return new(big.Int).Sub(n, s) }

// pair writes r and s as JWS does. A value that does not fit is cut.
func pair(r, s *big.Int) []byte {
	out := make([]byte, 64)
	for i, v := range []*big.Int{r, s} {
		b := v.Bytes()
		if len(b) > 32 {
			b = b[len(b)-32:]
		}
		copy(out[32*i+32-len(b):], b)
	}
	return out
}

func TestJ04_SignatureEdges(t *testing.T) {
	k := newKit(t)
	raw := k.sign(t, good())
	text := raw[:strings.LastIndexByte(raw, '.')]
	sig := unb64(t, raw[len(text)+1:])
	n, p := k.key.Params().N, k.key.Params().P
	r, s := new(big.Int).SetBytes(sig[:32]), new(big.Int).SetBytes(sig[32:])
	one, all := big.NewInt(1), new(big.Int).Sub(new(big.Int).Lsh(big.NewInt(1), 256), big.NewInt(1))
	add := func(a, b *big.Int) *big.Int { return new(big.Int).Add(a, b) }
	sub := func(a, b *big.Int) *big.Int { return new(big.Int).Sub(a, b) }
	edges := []*big.Int{new(big.Int), one, n, add(n, one), sub(n, one), p, add(p, one), sub(p, n), all, new(big.Int).Rsh(n, 1)}
	bad := map[string][]byte{
		"DER":      must(asn1.Marshal(struct{ R, S *big.Int }{r, s})),
		"63 bytes": sig[:63], "65 bytes": append(append([]byte(nil), sig...), 0), "a zero before": append([]byte{0}, sig...),
		"twice": append(append([]byte(nil), sig...), sig...), "one byte": {0}, "swapped": pair(s, r), "half": sig[:32],
		"the malleable twin": pair(r, sub(n, s)), "r + n": pair(add(r, n), s), "s + n": pair(r, add(s, n)),
	}
	for i, a := range edges {
		bad[fmt.Sprintf("r %d", i)], bad[fmt.Sprintf("s %d", i)] = pair(a, s), pair(r, a)
		for j, b := range edges {
			bad[fmt.Sprintf("r %d s %d", i, j)] = pair(a, b)
		}
	}
	for what, sig := range bad {
		k.refused(t, text+"."+b64(sig), what)
	}
	for i := range 8 * len(sig) {
		other := append([]byte(nil), sig...)
		other[i/8] ^= 1 << (i % 8)
		k.refused(t, text+"."+b64(other), fmt.Sprintf("bit %d", i))
	}
}

// TestJ04_OneSignatureOfTwo: Sign writes the smaller s, so that the twin is
// told from it; an independent verifier takes both.
func TestJ04_OneSignatureOfTwo(t *testing.T) {
	k := newKit(t)
	half := new(big.Int).Rsh(k.key.Params().N, 1)
	for range 32 { // a signer without the rule passes once in 2^32
		raw := k.sign(t, good())
		dot := strings.LastIndexByte(raw, '.')
		sig := unb64(t, raw[dot+1:])
		r, s := new(big.Int).SetBytes(sig[:32]), new(big.Int).SetBytes(sig[32:])
		sum := sha256.Sum256([]byte(raw[:dot]))
		if s.Cmp(half) > 0 || !ecdsa.Verify(&k.key.PublicKey, sum[:], r, s) {
			t.Fatal("not the smaller s, or no signature")
		}
		if !ecdsa.Verify(&k.key.PublicKey, sum[:], r, twinOf(k.key.Params().N, s)) {
			t.Fatal("the twin is no signature")
		}
	}
}

func must(b []byte, err error) []byte {
	if err != nil {
		panic(err)
	}
	return b
}
