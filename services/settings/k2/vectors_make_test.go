package k2

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"
)

// makeVectors makes every vector anew. The expected class is written down here,
// and not taken from what the code says.
func makeVectors(t *testing.T) map[string]vector {
	all := map[string]vector{}
	maps.Copy(all, settingVectors(t))
	maps.Copy(all, sequenceVectors(t))
	maps.Copy(all, keyVectors(t))
	maps.Copy(all, backupVectors(t))
	return all
}

// expecting completes a vector: what may come out, and why.
func (v vector) expecting(class, payload, comment string) vector {
	sum := sha256.Sum256([]byte(payload))
	v = maps.Clone(v)
	v["expect"], v["payload"], v["comment"] = class, hex.EncodeToString(sum[:]), comment
	return v
}

func (v vector) with(name, value string) vector {
	v = maps.Clone(v)
	v[name] = value
	return v
}

const vectorKID = "k2-202611-abcdef"

func blob(s Sealed) string { return s.Ciphertext + "|" + s.Nonce + "|" + s.Tag }

func settingVectors(t *testing.T) map[string]vector {
	k := mustKey(t, vectorKID, 0x42)
	out := map[string]vector{}
	for form, setting := range map[string]Setting{"plain": {Value: []byte("hey jarvis")}, "versioned": {5, then, []byte(`"hey jarvis"`)}} {
		s := mustSeal(t, k, "kitchen", "auth:music", setting)
		base := vector{"form": "setting", "node": "kitchen", "type": "auth:music", "kid": vectorKID, "k2": hex.EncodeToString(k.secret[:]), "blobs": blob(s)}
		add := func(name string, v vector, class, comment string) {
			payload := ""
			if class == "success" {
				payload = string(setting.Value)
			}
			out[form+"-"+name] = v.expecting(class, payload, comment)
		}
		changed := func(part func(*Sealed) *string, change func([]byte) []byte) vector {
			c := s
			raw, err := decode("part", *part(&c))
			if err != nil {
				t.Fatal(err)
			}
			*part(&c) = encode(change(raw))
			return base.with("blobs", blob(c))
		}
		ciphertext, nonce, tag := func(s *Sealed) *string { return &s.Ciphertext }, func(s *Sealed) *string { return &s.Nonce }, func(s *Sealed) *string { return &s.Tag }
		first := func(b []byte) []byte { b[0] ^= 0x80; return b }
		last := func(b []byte) []byte { b[len(b)-1] ^= 1; return b }
		short := func(b []byte) []byte { return b[:len(b)-1] }
		add("good", base, "success", "as it should be")
		add("ciphertext-first-bit", changed(ciphertext, first), "forged", "one bit of the ciphertext")
		add("ciphertext-last-bit", changed(ciphertext, last), "forged", "one bit of the ciphertext")
		add("ciphertext-short", changed(ciphertext, short), "forged", "its last byte is missing")
		add("ciphertext-long", changed(ciphertext, func(b []byte) []byte { return append(b, 0) }), "forged", "a byte more")
		add("ciphertext-empty", changed(ciphertext, func([]byte) []byte { return nil }), "forged", "none at all")
		add("nonce-bit", changed(nonce, first), "forged", "one bit of the nonce")
		add("nonce-short", changed(nonce, short), "malformed", "its last byte is missing")
		add("tag-bit", changed(tag, last), "forged", "one bit of the tag")
		add("tag-short", changed(tag, func(b []byte) []byte { return b[:12] }), "malformed", "a tag of 96 bits is none")
		add("tag-empty", changed(tag, func([]byte) []byte { return nil }), "malformed", "none at all")
		add("padding", base.with("blobs", blob(s)+"=="), "malformed", "base64url with padding")
		add("standard-alphabet", base.with("blobs", s.Ciphertext+"|+"+s.Nonce[1:]+"|"+s.Tag), "malformed", "a character of the other alphabet")
		add("other-node", base.with("node", "bedroom"), "forged", "it was sealed for another node")
		add("other-type", base.with("type", "auth:mail"), "forged", "it was sealed as another type")
		add("label-split", base.with("node", "kitchen:auth").with("type", "music"), "malformed", "the same label, split elsewhere")
		add("other-key", base.with("k2", hex.EncodeToString(bytes.Repeat([]byte{0x43}, 32))), "forged", "another K2 with the same id")
	}
	renamed := out["versioned-good"].with("kid", "k2-202611-abcdee")
	out["versioned-other-kid"] = renamed.expecting("forged", "", "the same K2 under another id")
	return out
}

func sequenceVectors(t *testing.T) map[string]vector {
	k := mustKey(t, vectorKID, 0x42)
	base := vector{"form": "setting", "node": "kitchen", "type": "node_config", "kid": vectorKID, "k2": hex.EncodeToString(k.secret[:])}
	at := func(v uint64, value string) string {
		return blob(mustSeal(t, k, "kitchen", "node_config", Setting{v, then.Add(time.Duration(v) * time.Minute), []byte(value)}))
	}
	seq := func(blobs ...string) vector { return base.with("blobs", strings.Join(blobs, " ")) }
	one, two, other := at(1, `"one"`), at(2, `"two"`), at(2, `"other"`)
	old, late := at(0, `{"__issued_at":1700000000}`), at(0, `{"__issued_at":1700000001}`)
	return map[string]vector{
		"sequence-rising":          seq(one, two).expecting("success", `"two"`, "version 2 after 1"),
		"sequence-twice":           seq(one, two, two).expecting("success", `"two"`, "the same again is no fault"),
		"sequence-rollback":        seq(two, one).expecting("rollback", "", "version 1 after 2"),
		"sequence-conflict":        seq(two, other).expecting("conflict", "", "another version 2"),
		"sequence-downgrade":       seq(one, late).expecting("rollback", "", "no version after a version"),
		"sequence-plain-rising":    seq(old, late).expecting("success", `{"__issued_at":1700000001}`, "issued later"),
		"sequence-plain-rollback":  seq(late, old).expecting("rollback", "", "issued earlier"),
		"sequence-plain-same-time": seq(late, at(0, `{"__issued_at":1700000001,"a":1}`)).expecting("rollback", "", "issued at the same time"),
		"sequence-plain-unmarked":  seq(at(0, `{"a":1}`)).expecting("malformed", "", "a node_config that does not say when"),
	}
}

func keyVectors(t *testing.T) map[string]vector {
	n, k, next := mustNode(t, 5), mustKey(t, vectorKID, 0x42), mustKey(t, "k2-202612-abcdef", 0x43)
	text := func(s SealedKey) string {
		b, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	first, second := mustSealKey(t, n.Public(), "kitchen", k, Key{}), mustSealKey(t, n.Public(), "kitchen", next, k)
	base := vector{"form": "key", "node": "kitchen", "node-key": hex.EncodeToString(n.Reveal()), "sealed": text(first)}
	has := base.with("kid", vectorKID).with("k2", hex.EncodeToString(k.secret[:]))
	change := func(f func(*SealedKey)) vector {
		s := first
		f(&s)
		return base.with("sealed", text(s))
	}
	return map[string]vector{
		"key-first":      base.expecting("success", string(k.secret[:]), "the first K2 of a node"),
		"key-again":      has.expecting("success", string(k.secret[:]), "the K2 that is here already"),
		"key-next":       has.with("sealed", text(second)).expecting("success", string(next.secret[:]), "a successor with its proof"),
		"key-unproven":   has.with("sealed", text(mustSealKey(t, n.Public(), "kitchen", next, Key{}))).expecting("unproven", "", "a successor without proof"),
		"key-self-proof": has.with("sealed", text(mustSealKey(t, n.Public(), "kitchen", next, next))).expecting("unproven", "", "a successor that vouches for itself"),
		"key-other-node": base.with("node", "bedroom").expecting("forged", "", "sealed for another node"),
		"key-other-kid":  change(func(s *SealedKey) { s.KID = "k2-202611-abcdee" }).expecting("forged", "", "another id on it"),
		"key-other-to":   change(func(s *SealedKey) { s.To = mustNode(t, 6).Public().String() }).expecting("forged", "", "another address on it"),
		"key-other-enc":  change(func(s *SealedKey) { s.Enc = second.Enc }).expecting("forged", "", "the ephemeral key of another delivery"),
		"key-zero-enc":   change(func(s *SealedKey) { s.Enc = encode(make([]byte, 32)) }).expecting("forged", "", "an ephemeral key without a secret"),
		"key-short-enc":  change(func(s *SealedKey) { s.Enc = encode(make([]byte, 31)) }).expecting("malformed", "", "an ephemeral key of 31 bytes"),
		"key-empty":      change(func(s *SealedKey) { s.Ciphertext = "" }).expecting("forged", "", "no ciphertext"),
		"key-version":    change(func(s *SealedKey) { s.V = 2 }).expecting("malformed", "", "a form that does not exist"),
	}
}

func backupVectors(t *testing.T) map[string]vector {
	k := mustKey(t, vectorKID, 0x42)
	plain, err := Backup("kitchen", k, "")
	if err != nil {
		t.Fatal(err)
	}
	enc, err := Backup("kitchen", k, "correct horse")
	if err != nil {
		t.Fatal(err)
	}
	phone := encode(phoneBackup(t, k, "correct horse"))
	v := func(text, pass string) vector { return vector{"form": "backup", "text": text, "passphrase": pass} }
	return map[string]vector{
		"backup-plain":      v(plain, "").expecting("success", string(k.secret[:]), "without a passphrase"),
		"backup-enc":        v(enc, "correct horse").expecting("success", string(k.secret[:]), "the specification's costs"),
		"backup-phone":      v(phone, "correct horse").expecting("success", string(k.secret[:]), "the phone's costs"),
		"backup-passphrase": v(enc, "correct horsf").expecting("passphrase", "", "another passphrase"),
		"backup-node":       v(reworked(t, enc, "node_id", "bedroom"), "correct horse").expecting("passphrase", "", "another node's id on it"),
		"backup-kid":        v(reworked(t, enc, "kid", "k2-202611-abcdee"), "correct horse").expecting("passphrase", "", "another key's id on it"),
		"backup-costs":      v(reworked(t, enc, "params", kdf{1 << 22, 3, 1}), "correct horse").expecting("malformed", "", "costs of 4 GiB"),
		"backup-mode":       v(reworked(t, enc, "mode", "plain"), "correct horse").expecting("malformed", "", "encrypted, and says that it is plain"),
		"backup-short":      v(enc[:len(enc)-8], "correct horse").expecting("malformed", "", "its end is missing"),
	}
}

// phoneBackup is an encrypted backup with the phone's costs, put together here
// from the parts of the form.
func phoneBackup(t *testing.T, k Key, passphrase string) []byte {
	salt, nonce := bytes.Repeat([]byte{1}, 16), bytes.Repeat([]byte{2}, 12)
	aead, err := gcm(kdf{19456, 2, 1}.key(passphrase, salt))
	if err != nil {
		t.Fatal(err)
	}
	aad := fmt.Sprintf(`{"v":1,"node_id":"kitchen","kid":"%s"}`, k.kid)
	out := aead.Seal(nil, nonce, k.secret[:], []byte(aad))
	return fmt.Appendf(nil, `{"v":1,"mode":"enc","node_id":"kitchen","kid":"%s","kdf":"argon2id","salt":"%s","params":{"m":19456,"t":2,"p":1},"nonce":"%s","ciphertext":"%s","tag":"%s","cc_url":"http://command.warren.internal"}`,
		k.kid, encode(salt), encode(nonce), encode(out[:32]), encode(out[32:]))
}
