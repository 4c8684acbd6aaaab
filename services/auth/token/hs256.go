package token

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/golang-jwt/jwt/v5"
)

// MinHS256 is the least length of the shared secret, in bytes (RFC 7518,
// section 3.2: as long as the hash).
const MinHS256 = 32

// Jarvis are the claims of a token in Jarvis' form. See the package
// documentation for what is lost with it.
type Jarvis struct {
	Subject   string // account.UserID, in decimal
	Email     string
	Superuser bool
	Household string // "" is written as null
	ID        string // jti
	Issued    time.Time
	Expires   time.Time
}

type jarvisWire struct {
	Subject   string  `json:"sub"`
	Email     string  `json:"email"`
	Superuser bool    `json:"is_superuser"`
	Household *string `json:"household_id"`
	ID        string  `json:"jti"`
	Issued    seconds `json:"iat"`
	Expires   seconds `json:"exp"`
}

// SignHS256 makes a token in Jarvis' form. secret has MinHS256 bytes or more.
func SignHS256(secret []byte, c Jarvis) (string, error) {
	if len(secret) < MinHS256 {
		return "", fmt.Errorf("signing HS256 token: the secret has less than %d bytes", MinHS256)
	}
	w := jarvisWire{c.Subject, c.Email, c.Superuser, nil, c.ID, secondsOf(c.Issued), secondsOf(c.Expires)}
	if c.Household != "" {
		w.Household = &c.Household
	}
	if !w.sound() || !utf8.ValidString(c.Subject+c.Email+c.ID+c.Household) {
		return "", errors.New("signing HS256 token: a claim that is needed is missing, or the times are not in order")
	}
	payload, err := json.Marshal(w)
	if err != nil {
		return "", fmt.Errorf("signing HS256 token: %w", err)
	}
	b64 := base64.RawURLEncoding.EncodeToString
	text := b64([]byte(`{"alg":"HS256","typ":"JWT"}`)) + "." + b64(payload)
	sig, err := jwt.SigningMethodHS256.Sign(text, secret)
	if err != nil {
		return "", fmt.Errorf("signing HS256 token: %w", err)
	}
	return text + "." + b64(sig), nil
}

// VerifyHS256 judges a token in Jarvis' form at a time, with Leeway. It says
// nothing about the machine: whoever lets somebody in by such a token looks up
// the session that its jti names, and that session's machine.
func VerifyHS256(secret []byte, raw string, now time.Time) (Jarvis, error) {
	h, err := inspect(raw)
	if err != nil || len(secret) < MinHS256 || h != (header{Alg: "HS256", Typ: typeID}) {
		return Jarvis{}, ErrInvalid
	}
	dot := strings.LastIndexByte(raw, '.')
	sig, err := base64.RawURLEncoding.Strict().DecodeString(raw[dot+1:])
	mac := hmac.New(sha256.New, secret)
	mac.Write([]byte(raw[:dot]))
	if err != nil || !hmac.Equal(sig, mac.Sum(nil)) {
		return Jarvis{}, ErrInvalid
	}
	payload, err := base64.RawURLEncoding.Strict().DecodeString(strings.Split(raw, ".")[1])
	if err != nil {
		return Jarvis{}, ErrInvalid
	}
	// What the secret's holder signed is read as leniently as Jarvis' other
	// services do, but for what this form cannot do without.
	var w jarvisWire
	if err := json.Unmarshal(payload, &w); err != nil || !w.sound() || w.Issued.time().After(now.Add(Leeway)) {
		return Jarvis{}, ErrInvalid
	}
	if !now.Before(w.Expires.time().Add(Leeway)) {
		return Jarvis{}, ErrExpired
	}
	c := Jarvis{w.Subject, w.Email, w.Superuser, "", w.ID, w.Issued.time(), w.Expires.time()}
	if w.Household != nil {
		c.Household = *w.Household
	}
	return c, nil
}

func (w *jarvisWire) sound() bool {
	return w.Subject != "" && w.ID != "" && w.Issued > 0 && w.Expires > w.Issued
}
