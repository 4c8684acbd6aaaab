package auth

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"time"

	"github.com/warrenmesh/warren/peer/account"
)

// keyBytes is how many random bytes are in a key: 256 bits, twice what keeps
// anybody from guessing one.
const keyBytes = 32

// maxKey is the longest text that is looked at as a key, in bytes.
const maxKey = 256

// DefaultOverlap is how long the key that was replaced stays valid besides the
// new one, so that both ends can be given it one after the other.
const DefaultOverlap = 24 * time.Hour

// MaxOverlap is the longest overlap that can be asked for.
const MaxOverlap = 30 * 24 * time.Hour

// The purposes of the digests of keys. They are part of what is stored.
const (
	keyPurpose    = "key"
	clientPurpose = "client secret"
)

// nodeOwner and appOwner name whose keys are meant.
func nodeOwner(id string) string { return "node:" + id }
func appOwner(id string) string  { return "app:" + id }

// newSecret returns keyBytes of randomness in base64url without padding.
func newSecret() string {
	return base64.RawURLEncoding.EncodeToString(randomBytes(keyBytes))
}

// randomBytes returns n of them. crypto/rand never fails: where there is no
// randomness it ends the program.
func randomBytes(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b)
	return b
}

// keyDigest is what is stored of a key. The owner is part of it: whoever can
// write to the database cannot give one owner's key to another.
func keyDigest(tx account.Tx, owner, secret string) []byte {
	return tx.Digest(keyPurpose, []byte(owner+"\x00"+secret))
}

// addKey gives an owner a new key and returns its text, which is kept nowhere.
// The keys that there are end at now+overlap at the latest.
func addKey(tx account.Tx, owner string, overlap time.Duration) (string, error) {
	if overlap < 0 || overlap > MaxOverlap {
		return "", fmt.Errorf("an overlap is between 0 and %v: %w", MaxOverlap, account.ErrInvalid)
	}
	until := time.Time{}
	if overlap > 0 {
		until = tx.Now().Add(overlap)
	}
	secret := newSecret()
	key := account.Key{Digest: keyDigest(tx, owner, secret), Created: tx.Now()}
	if err := tx.AddKey(owner, key, until); err != nil {
		return "", fmt.Errorf("adding a key: %w", err)
	}
	return secret, nil
}

// keyMatches says whether secret is one of an owner's keys now. The owner was
// found by its public id; what is secret is compared as digests of one length
// under a key of the store, in constant time, and all keys are compared
// whichever matches: the time tells nothing about a key.
func keyMatches(tx account.Tx, owner, secret string) (bool, error) {
	if secret == "" || len(secret) > maxKey {
		return false, nil
	}
	keys, err := tx.Keys(owner)
	if err != nil && !errors.Is(err, account.ErrNotFound) {
		return false, fmt.Errorf("reading keys: %w", err)
	}
	return anyDigest(keyDigest(tx, owner, secret), keys), nil
}

// anyDigest compares digest with the digest of each of keys.
func anyDigest(digest []byte, keys []account.Key) bool {
	found := 0
	for _, k := range keys {
		// An empty digest on both sides would be equal.
		if len(k.Digest) > 0 {
			found |= subtle.ConstantTimeCompare(digest, k.Digest)
		}
	}
	return found == 1
}

// ClientSecretMatches says whether secret is that of a confidential OAuth
// client. A public client has none, and nothing matches it.
func ClientSecretMatches(tx account.Tx, c account.Client, secret string) bool {
	if secret == "" || len(secret) > maxKey {
		return false
	}
	return anyDigest(tx.Digest(clientPurpose, []byte(secret)), []account.Key{{Digest: c.SecretDigest}})
}

// endKeys ends all keys of an owner at once. What replaces them is random, was
// never a key's digest and has ended as well.
func endKeys(tx account.Tx, owner string) error {
	dead := account.Key{Digest: randomBytes(sha256.Size), Created: tx.Now(), Expires: tx.Now()}
	if err := tx.AddKey(owner, dead, time.Time{}); err != nil {
		return fmt.Errorf("ending keys: %w", err)
	}
	return nil
}
