package auth

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base32"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/pquerna/otp"
	"github.com/pquerna/otp/hotp"
	"github.com/pquerna/otp/totp"

	"github.com/warrenmesh/warren/peer"
	"github.com/warrenmesh/warren/peer/account"
)

// A second factor (RFC 6238): six digits, thirty seconds, SHA-1, which is what
// every authenticator app can do. The step before and the one after count as
// well, each once.
const (
	totpPeriod = 30 // seconds
	totpSecret = 20 // bytes (RFC 4226, section 4, R6)
)

func errCode() error { return refuse(http.StatusUnauthorized, CodeWrong) }

// useCode judges a code of six digits or a recovery code, and uses it up.
func useCode(tx account.Tx, u account.UserID, secrets account.Secrets, code string) error {
	code = strings.ToUpper(strings.ReplaceAll(strings.ReplaceAll(code, " ", ""), "-", ""))
	if len(code) != otp.DigitsSix.Length() {
		if len(code) != recoveryLength {
			return errCode()
		}
		err := tx.UseRecovery(u, hashToken(code))
		if errors.Is(err, account.ErrNotFound) {
			return errCode()
		} else if err != nil {
			return fmt.Errorf("using a recovery code: %w", err)
		}
		return nil
	}
	step, ok, err := matchStep(secrets.TOTP, code, tx.Now())
	if err != nil {
		return err
	}
	if !ok {
		return errCode()
	}
	err = tx.UseStep(u, step)
	if errors.Is(err, account.ErrConflict) {
		return errCode() // somebody looked over the shoulder
	} else if err != nil {
		return fmt.Errorf("using a code: %w", err)
	}
	return nil
}

// matchStep finds the time step that a code belongs to. All three are computed,
// whichever matches.
func matchStep(secret []byte, code string, now time.Time) (step int64, ok bool, err error) {
	text := base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(secret)
	for _, at := range []int64{-1, 0, 1} {
		at += now.Unix() / totpPeriod
		want, err := hotp.GenerateCode(text, uint64(at))
		if err != nil {
			return 0, false, fmt.Errorf("computing a code: %w", err)
		}
		if subtle.ConstantTimeCompare([]byte(want), []byte(code)) == 1 {
			step, ok = at, true
		}
	}
	return step, ok, nil
}

// A recovery code has 80 random bits: a plain hash of it is enough.
const recoveryLength = 16

func newRecoveryCodes() (codes []string, hashes [][]byte) {
	for range recoverySize {
		b := make([]byte, 10)
		_, _ = rand.Read(b) // never fails: it ends the program instead
		code := base32.StdEncoding.EncodeToString(b)
		hashes = append(hashes, hashToken(code))
		codes = append(codes, code[:4]+"-"+code[4:8]+"-"+code[8:12]+"-"+code[12:])
	}
	return codes, hashes
}

// enrolTOTP makes a secret for somebody, to be confirmed with a first code.
func (s *Service) enrolTOTP(ctx context.Context, p peer.Peer, u account.User, password string) (secret, uri string, err error) {
	if err := s.reprove(ctx, p, u.ID, password); err != nil {
		return "", "", err
	}
	raw := make([]byte, totpSecret)
	_, _ = rand.Read(raw) // never fails: it ends the program instead
	key, err := totp.Generate(totp.GenerateOpts{Issuer: "Warren", AccountName: u.Email, Period: totpPeriod, Secret: raw})
	if err != nil {
		return "", "", fmt.Errorf("making a second factor: %w", err)
	}
	err = s.cfg.Store.Keep(ctx, func(tx account.Tx) error {
		have, err := tx.Secrets(u.ID)
		if err != nil {
			return fmt.Errorf("finding a person: %w", err)
		}
		if have.Confirmed {
			return conflict("There is a second factor already; remove it first.")
		}
		return tx.SetTOTP(u.ID, raw, false, nil)
	})
	if err != nil {
		return "", "", err
	}
	return key.Secret(), key.URL(), nil
}

// confirmTOTP turns the second factor on, once a code shows that the app has
// the secret. The recovery codes are shown this once.
func (s *Service) confirmTOTP(ctx context.Context, p peer.Peer, u account.UserID, code string) ([]string, error) {
	own := ownLimit(u, p)
	if err := s.attemptAlone(ctx, p, own); err != nil {
		return nil, err
	}
	codes, hashes := newRecoveryCodes()
	ev := account.Event{Actor: "user:" + u.String(), Action: "totp.on", Target: "user:" + u.String()}
	err := s.cfg.Store.Do(ctx, ev, func(tx account.Tx) error {
		have, err := tx.Secrets(u)
		if err != nil {
			return fmt.Errorf("finding a person: %w", err)
		}
		if have.TOTP == nil || have.Confirmed {
			return conflict("There is no second factor that waits for its first code.")
		}
		step, ok, err := matchStep(have.TOTP, strings.ReplaceAll(code, " ", ""), tx.Now())
		if err != nil {
			return err
		}
		if !ok {
			return errCode()
		}
		if err := tx.SetTOTP(u, have.TOTP, true, hashes); err != nil {
			return fmt.Errorf("turning on a second factor: %w", err)
		}
		if err := tx.UseStep(u, step); err != nil {
			return fmt.Errorf("using a code: %w", err)
		}
		return forgive(tx, []limit{own})
	})
	if err != nil {
		return nil, err
	}
	return codes, nil
}

// disableTOTP turns the second factor off.
func (s *Service) disableTOTP(ctx context.Context, p peer.Peer, u account.UserID, password string) error {
	if err := s.reprove(ctx, p, u, password); err != nil {
		return err
	}
	ev := account.Event{Actor: "user:" + u.String(), Action: "totp.off", Target: "user:" + u.String()}
	return s.cfg.Store.Do(ctx, ev, func(tx account.Tx) error { return tx.SetTOTP(u, nil, false, nil) })
}

// secondFactor says whether somebody has one that counts.
func (s *Service) secondFactor(ctx context.Context, u account.UserID) (on bool, err error) {
	err = s.cfg.Store.View(ctx, func(tx account.Tx) error {
		have, err := tx.Secrets(u)
		on = have.Confirmed && have.TOTP != nil
		return err
	})
	return on, err
}
