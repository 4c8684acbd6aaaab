package webhook

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// The headers of a delivery.
const (
	HeaderTimestamp = "X-Jarvis-Timestamp"
	HeaderSignature = "X-Jarvis-Signature"
	HeaderID        = "X-Jarvis-Id"
)

// Window is how far a delivery's timestamp may be from the receiver's clock, in
// either direction: exactly so far is accepted, a second more is not.
const Window = 300 * time.Second

// MinSecret is the length of the shortest secret that signs or verifies, bytes.
const MinSecret = 16

//lint:file-ignore ST1005 the sentences are Jarvis', and senders read them

// The reasons to refuse a delivery, told apart with errors.Is.
var (
	// ErrTimestamp: the timestamp is none: whole seconds since 1970 in decimal
	// ASCII digits, without sign, blanks or leading zeros.
	ErrTimestamp = errors.New("Invalid timestamp")
	// ErrExpired: the timestamp is further from the clock than Window.
	ErrExpired = errors.New("Timestamp expired")
	// ErrID: the id is none: 1 to 128 of A-Z a-z 0-9 _ -, and not digits alone.
	ErrID = errors.New("Invalid id")
	// ErrSignature: it was signed with another secret, or something else was.
	ErrSignature = errors.New("Invalid signature")
)

const signaturePrefix = "sha256="

var (
	timestampForm = regexp.MustCompile(`^[1-9][0-9]{0,11}$`)
	idForm        = regexp.MustCompile(`^[A-Za-z0-9_-]{1,128}$`)
	digitsOnly    = regexp.MustCompile(`^[0-9]+$`)
)

// Sign returns the value of X-Jarvis-Signature: an HMAC-SHA256 over
// "{ts}.{body}", or over "{id}.{ts}.{body}" if there is an id. It fails for a
// secret of less than MinSecret bytes and for an id that is none.
//
// That an id is never digits alone keeps the two texts apart: else somebody
// could move the dot, and have "{ts}.{body}" pass for "{id}.{ts}.{rest}".
func Sign(secret []byte, id string, ts time.Time, body []byte) (string, error) {
	if id != "" && !validID(id) {
		return "", ErrID
	}
	text := strconv.FormatInt(ts.Unix(), 10)
	if !timestampForm.MatchString(text) {
		return "", ErrTimestamp
	}
	if len(secret) < MinSecret {
		return "", errors.New("signing webhook: the secret is too short")
	}
	return signaturePrefix + hex.EncodeToString(sum(secret, id, text, body)), nil
}

// Verify judges a delivery by the values of its headers, at a time. id is ""
// for a delivery without one. mark is what makes the delivery itself: it is to
// be accepted once. The checks are in the order of the errors above; the
// signature is always computed, and compared in constant time.
func Verify(secret []byte, id, timestamp, signature string, body []byte, now time.Time) (mark []byte, err error) {
	given, signatureErr := parseSignature(signature)
	want := sum(secret, id, timestamp, body)
	matches := hmac.Equal(given, want)
	if !timestampForm.MatchString(timestamp) {
		return nil, ErrTimestamp
	}
	seconds, err := strconv.ParseInt(timestamp, 10, 64)
	if err != nil {
		return nil, ErrTimestamp
	}
	if off := now.Unix() - seconds; off > int64(Window/time.Second) || off < -int64(Window/time.Second) {
		return nil, ErrExpired
	}
	if id != "" && !validID(id) {
		return nil, ErrID
	}
	if signatureErr != nil || !matches || len(secret) < MinSecret {
		return nil, ErrSignature
	}
	if id != "" {
		return []byte("id:" + id), nil
	}
	return append([]byte("signature:"), want...), nil
}

func validID(id string) bool { return idForm.MatchString(id) && !digitsOnly.MatchString(id) }

// sum never fails, whatever it is given: what is no id or timestamp is refused
// besides.
func sum(secret []byte, id, timestamp string, body []byte) []byte {
	m := hmac.New(sha256.New, secret)
	if id != "" {
		m.Write([]byte(id + "."))
	}
	m.Write([]byte(timestamp + "."))
	m.Write(body)
	return m.Sum(nil)
}

// parseSignature takes hexadecimal digits in either case: they are one
// signature, and one mark.
func parseSignature(s string) ([]byte, error) {
	digits, ok := strings.CutPrefix(s, signaturePrefix)
	if !ok || len(digits) != 2*sha256.Size {
		return nil, ErrSignature
	}
	b, err := hex.DecodeString(digits)
	if err != nil {
		return nil, ErrSignature
	}
	return b, nil
}
