package token

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"math"
	"slices"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/golang-jwt/jwt/v5"

	"github.com/warrenmesh/warren/peer"
)

// wire is an access token's payload. It implements jwt.Claims, so that the
// library judges the times, the issuer and the audience, and
// jwt.ClaimsValidator for the rest.
type wire struct {
	Issuer       string  `json:"iss"`
	Subject      string  `json:"sub"`
	Audience     string  `json:"aud"` // one; a list is refused
	Expires      seconds `json:"exp"`
	Issued       seconds `json:"iat"`
	NotBefore    seconds `json:"nbf,omitempty"`
	ID           string  `json:"jti"`
	Session      string  `json:"sid"`
	Device       string  `json:"did"`
	Household    string  `json:"household_id,omitempty"`
	Role         string  `json:"role,omitempty"`
	Client       string  `json:"client_id,omitempty"`
	Scope        string  `json:"scope,omitempty"`
	Confirmation cnf     `json:"cnf"`
}

// cnf is the confirmation claim (RFC 7800): the key that the presenter holds.
type cnf struct {
	WireGuard string `json:"wg"` // base64, as wg prints it
}

// seconds are since 1970, from 1 to the end of the year 9999.
type seconds int64

const lastSecond = 253402300799

// UnmarshalJSON takes digits only: no sign, fraction, exponent or string.
func (s *seconds) UnmarshalJSON(text []byte) error {
	n, err := strconv.ParseInt(string(text), 10, 64)
	if err != nil || n < 1 || n > lastSecond || strconv.FormatInt(n, 10) != string(text) {
		return ErrInvalid
	}
	*s = seconds(n)
	return nil
}

// UnmarshalJSON is strict.
func (c *cnf) UnmarshalJSON(text []byte) error {
	type plain cnf
	return strictJSON(text, (*plain)(c), "wg")
}

// UnmarshalJSON is strict.
func (w *wire) UnmarshalJSON(text []byte) error {
	type plain wire
	return strictJSON(text, (*plain)(w), "iss", "sub", "aud", "exp", "iat", "nbf", "jti", "sid", "did",
		"household_id", "role", "client_id", "scope", "cnf")
}

// once checks that text is one JSON object with only these members, each at
// most once and none of them null, and nothing behind it.
func once(text []byte, members []string) error {
	if !utf8.Valid(text) {
		return ErrInvalid
	}
	dec := json.NewDecoder(bytes.NewReader(text))
	if t, err := dec.Token(); err != nil || t != json.Delim('{') {
		return ErrInvalid
	}
	seen := make([]string, 0, len(members))
	for dec.More() {
		t, err := dec.Token()
		name, ok := t.(string)
		if err != nil || !ok || !slices.Contains(members, name) || slices.Contains(seen, name) {
			return ErrInvalid
		}
		seen = append(seen, name)
		var value json.RawMessage
		if err := dec.Decode(&value); err != nil || string(value) == "null" {
			return ErrInvalid
		}
	}
	if _, err := dec.Token(); err != nil { // the closing brace
		return ErrInvalid
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return ErrInvalid
	}
	return nil
}

func wireOf(c Claims) (*wire, error) {
	if len(c.Audience) != 1 {
		return nil, errors.New("an access token is for exactly one audience")
	}
	w := &wire{
		Issuer: c.Issuer, Subject: c.Subject, Audience: c.Audience[0],
		Expires: secondsOf(c.Expires), Issued: secondsOf(c.Issued), NotBefore: secondsOf(c.NotBefore),
		ID: c.ID, Session: c.Session, Device: string(c.Device),
		Household: c.Household, Role: c.Role, Client: c.Client, Scope: c.Scope,
	}
	if !c.Peer.IsZero() {
		w.Confirmation.WireGuard = c.Peer.String()
	}
	for _, s := range []string{w.Issuer, w.Subject, w.Audience, w.ID, w.Session, w.Device, w.Household, w.Role, w.Client, w.Scope} {
		if !utf8.ValidString(s) {
			return nil, errors.New("a claim is not UTF-8")
		}
	}
	if w.Validate() != nil {
		return nil, errors.New("a claim that is needed is missing, or the times are not in order")
	}
	return w, nil
}

// Validate implements jwt.ClaimsValidator: what is required is there, and the
// times fit each other. The library compares them with the clock.
func (w *wire) Validate() error {
	for _, s := range []string{w.Issuer, w.Subject, w.Audience, w.ID, w.Session, w.Device} {
		if s == "" {
			return ErrInvalid
		}
	}
	if _, err := w.peer(); err != nil {
		return err
	}
	life := w.Expires - w.Issued
	if w.Issued < 1 || life < 1 || life > seconds(MaxLife/time.Second) || w.NotBefore < 0 || w.NotBefore > w.Expires {
		return ErrInvalid
	}
	return nil
}

func (w *wire) claims() (Claims, error) {
	key, err := w.peer()
	if err != nil {
		return Claims{}, err
	}
	return Claims{
		Issuer: w.Issuer, Subject: w.Subject, ID: w.ID, Device: peer.ID(w.Device), Peer: key, Session: w.Session,
		Household: w.Household, Role: w.Role, Client: w.Client, Scope: w.Scope, Audience: []string{w.Audience},
		Issued: w.Issued.time(), Expires: w.Expires.time(), NotBefore: w.NotBefore.time(),
	}, nil
}

// peer reads the key in cnf. Whether it is a good WireGuard key was settled
// when the machine joined; here it is only compared.
func (w *wire) peer() (peer.PublicKey, error) {
	b, err := base64.StdEncoding.Strict().DecodeString(w.Confirmation.WireGuard)
	if err != nil || len(b) != peer.KeySize {
		return peer.PublicKey{}, ErrInvalid
	}
	key := peer.PublicKey(b)
	if key.IsZero() || key.String() != w.Confirmation.WireGuard {
		return peer.PublicKey{}, ErrInvalid
	}
	return key, nil
}

func secondsOf(t time.Time) seconds {
	if t.IsZero() {
		return 0
	}
	// What does not fit becomes what Validate refuses.
	n := t.Unix()
	if n < 1 || n > lastSecond {
		return math.MinInt32
	}
	return seconds(n)
}

func (s seconds) time() time.Time {
	if s == 0 {
		return time.Time{}
	}
	return time.Unix(int64(s), 0)
}

func (s seconds) date() *jwt.NumericDate {
	if s == 0 {
		return nil
	}
	return jwt.NewNumericDate(s.time())
}

// GetExpirationTime implements jwt.Claims.
func (w *wire) GetExpirationTime() (*jwt.NumericDate, error) { return w.Expires.date(), nil }

// GetIssuedAt implements jwt.Claims.
func (w *wire) GetIssuedAt() (*jwt.NumericDate, error) { return w.Issued.date(), nil }

// GetNotBefore implements jwt.Claims.
func (w *wire) GetNotBefore() (*jwt.NumericDate, error) { return w.NotBefore.date(), nil }

// GetIssuer implements jwt.Claims.
func (w *wire) GetIssuer() (string, error) { return w.Issuer, nil }

// GetSubject implements jwt.Claims.
func (w *wire) GetSubject() (string, error) { return w.Subject, nil }

// GetAudience implements jwt.Claims.
func (w *wire) GetAudience() (jwt.ClaimStrings, error) { return jwt.ClaimStrings{w.Audience}, nil }
