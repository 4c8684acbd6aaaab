package auth

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"

	"github.com/go-webauthn/webauthn/protocol"
	"github.com/go-webauthn/webauthn/webauthn"

	"github.com/warrenmesh/warren/peer"
	"github.com/warrenmesh/warren/peer/account"
	"github.com/warrenmesh/warren/services"
)

// newRelyingParty returns what passkeys are made for: the host of the issuer,
// and no other origin than it over TLS. A person is always verified.
func newRelyingParty(issuer *url.URL) (*webauthn.WebAuthn, error) {
	need := true
	w, err := webauthn.New(&webauthn.Config{
		RPID:                  issuer.Hostname(),
		RPDisplayName:         "Warren",
		RPOrigins:             []string{issuer.Scheme + "://" + issuer.Host},
		AttestationPreference: protocol.PreferNoAttestation,
		AuthenticatorSelection: protocol.AuthenticatorSelection{
			ResidentKey: protocol.ResidentKeyRequirementRequired, RequireResidentKey: &need, UserVerification: protocol.VerificationRequired,
		},
	})
	if err != nil {
		return nil, fmt.Errorf("setting up passkeys: %w", err)
	}
	return w, nil
}

// holder is a person as the library knows one. Its handle is a keyed digest of
// their number: authenticators keep it, and it says nothing.
type holder struct {
	user   account.User
	handle []byte
	keys   []webauthn.Credential
}

func (h holder) WebAuthnID() []byte                         { return h.handle }
func (h holder) WebAuthnName() string                       { return h.user.Email }
func (h holder) WebAuthnDisplayName() string                { return h.user.Email }
func (h holder) WebAuthnCredentials() []webauthn.Credential { return h.keys }

// holderOf reads a person's passkeys.
func holderOf(tx account.Tx, u account.User) (holder, error) {
	h := holder{user: u, handle: tx.Digest("passkey handle", []byte(u.ID.String()))}
	stored, err := tx.Passkeys(u.ID)
	if err != nil {
		return h, fmt.Errorf("reading passkeys: %w", err)
	}
	for _, k := range stored {
		var cred webauthn.Credential
		if err := json.Unmarshal(k.Record, &cred); err != nil {
			return h, fmt.Errorf("reading a passkey: %w", err)
		}
		h.keys = append(h.keys, cred)
	}
	return h, nil
}

func errPasskey() error { return refuse(http.StatusUnauthorized, "Invalid passkey") }

// beginPasskey begins to register one for a person who is signed in and has
// given their password. It returns the ceremony's name and what the browser
// needs.
func (s *Service) beginPasskey(ctx context.Context, c *services.Caller, password string) (string, *protocol.CredentialCreation, error) {
	if err := s.reprove(ctx, c.Peer, c.User.ID, password); err != nil {
		return "", nil, err
	}
	var h holder
	err := s.cfg.Store.View(ctx, func(tx account.Tx) (err error) {
		h, err = holderOf(tx, c.User)
		return err
	})
	if err != nil {
		return "", nil, err
	}
	options, state, err := s.passkeys.BeginRegistration(h, webauthn.WithExclusions(webauthn.Credentials(h.keys).CredentialDescriptors()))
	if err != nil {
		return "", nil, fmt.Errorf("beginning to register a passkey: %w", err)
	}
	return s.ceremonies.begin(c.Peer, c.User.ID, *state), options, nil
}

// finishPasskey registers what the browser answered.
func (s *Service) finishPasskey(ctx context.Context, c *services.Caller, id, name string, answer json.RawMessage) (account.Passkey, error) {
	if err := checkName(name); err != nil {
		return account.Passkey{}, err
	}
	state, ok := s.ceremonies.finish(id, c.Peer, c.User.ID)
	if !ok {
		return account.Passkey{}, badRequest("This registration has ended; begin again.")
	}
	parsed, err := protocol.ParseCredentialCreationResponseBytes(answer)
	if err != nil {
		return account.Passkey{}, badRequest("The passkey's answer cannot be read.")
	}
	var key account.Passkey
	ev := account.Event{Actor: c.Actor(), Action: "passkey.add", Target: c.Actor()}
	err = s.cfg.Store.Do(ctx, ev, func(tx account.Tx) error {
		h, err := holderOf(tx, c.User)
		if err != nil {
			return err
		}
		cred, err := s.passkeys.CreateCredential(h, state, parsed)
		if err != nil {
			return badRequest("The passkey was not accepted; begin again.")
		}
		record, err := json.Marshal(cred)
		if err != nil {
			return fmt.Errorf("encoding a passkey: %w", err)
		}
		if _, err := tx.PasskeyByID(cred.ID); err == nil {
			return conflict("This passkey is registered already.")
		}
		key = account.Passkey{ID: cred.ID, User: c.User.ID, Name: name, Record: record, Created: tx.Now()}
		return tx.PutPasskey(key)
	})
	return key, err
}

// beginPasskeyLogin begins a sign-in on machine p. Nothing is asked about who
// it will be, and nothing is told: the authenticator knows.
func (s *Service) beginPasskeyLogin(p peer.Peer) (string, *protocol.CredentialAssertion, error) {
	options, state, err := s.passkeys.BeginDiscoverableLogin(webauthn.WithUserVerification(protocol.VerificationRequired))
	if err != nil {
		return "", nil, fmt.Errorf("beginning a sign-in with a passkey: %w", err)
	}
	return s.ceremonies.begin(p, 0, *state), options, nil
}

// finishPasskeyLogin signs in who the browser's answer proves, and starts a
// session on machine p.
func (s *Service) finishPasskeyLogin(ctx context.Context, p peer.Peer, id string, answer json.RawMessage) (account.User, Tokens, error) {
	none := func(err error) (account.User, Tokens, error) { return account.User{}, Tokens{}, err }
	guesses := machineLimit("passkey", p)
	if err := s.attemptAlone(ctx, p, guesses); err != nil {
		return none(err)
	}
	state, ok := s.ceremonies.finish(id, p, 0)
	if !ok {
		return none(badRequest("This sign-in has ended; begin again."))
	}
	parsed, err := protocol.ParseCredentialRequestResponseBytes(answer)
	if err != nil {
		return none(badRequest("The passkey's answer cannot be read."))
	}
	var u account.User
	var out Tokens
	cloned := false
	err = s.cfg.Store.Keep(ctx, func(tx account.Tx) error {
		var key account.Passkey
		if u, key, err = s.provePasskey(tx, state, parsed); err != nil {
			return err
		}
		if cloned = key.Record == nil; cloned {
			return tx.Record(account.Event{Actor: "peer:" + p.Name, Action: "passkey.cloned", Target: "user:" + u.ID.String()})
		}
		key.LastUsed = tx.Now()
		if err := tx.PutPasskey(key); err != nil {
			return fmt.Errorf("writing a passkey: %w", err)
		}
		if err := errors.Join(tx.Know(u.ID, p.ID), forgive(tx, []limit{guesses})); err != nil {
			return err
		}
		if err := tx.Record(account.Event{Actor: "user:" + u.ID.String(), Action: "session.start", Target: "peer:" + p.Name}); err != nil {
			return err
		}
		out, err = s.Start(ctx, tx, account.Session{User: u.ID, Peer: p.ID, Key: p.PublicKey, Methods: []string{methodKey, methodUser, methodMFA}})
		return err
	})
	if err == nil && cloned {
		err = errPasskey()
	}
	if err != nil {
		return none(err)
	}
	return u, out, nil
}

// provePasskey finds who an answer proves. The passkey it returns has the count
// of the answer; its Record is nil if that count went backwards: there are two
// of it, and one is a copy.
func (s *Service) provePasskey(tx account.Tx, state webauthn.SessionData, parsed *protocol.ParsedCredentialAssertionData) (account.User, account.Passkey, error) {
	var u account.User
	var failed error
	key, err := tx.PasskeyByID(parsed.RawID)
	if err == nil {
		u, err = tx.User(key.User)
	}
	if errors.Is(err, account.ErrNotFound) || err == nil && u.Disabled {
		return u, key, errPasskey()
	} else if err != nil {
		return u, key, fmt.Errorf("finding a passkey: %w", err)
	}
	cred, err := s.passkeys.ValidateDiscoverableLogin(func(_, handle []byte) (webauthn.User, error) {
		var h holder
		if h, failed = holderOf(tx, u); failed != nil {
			return nil, failed
		}
		if base64.RawURLEncoding.EncodeToString(handle) != base64.RawURLEncoding.EncodeToString(h.handle) {
			return nil, errPasskey()
		}
		return h, nil
	}, state, parsed)
	switch {
	case failed != nil:
		return u, key, failed
	case err != nil:
		return u, key, errPasskey()
	case cred.Authenticator.CloneWarning:
		key.Record = nil
		return u, key, nil
	}
	if key.Record, err = json.Marshal(cred); err != nil {
		return u, key, fmt.Errorf("encoding a passkey: %w", err)
	}
	return u, key, nil
}

// removePasskey removes one of somebody's, by its id in base64url.
func (s *Service) removePasskey(ctx context.Context, c *services.Caller, text string) error {
	id, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil || len(id) == 0 {
		return notFound("Passkey")
	}
	ev := account.Event{Actor: c.Actor(), Action: "passkey.remove", Target: c.Actor()}
	err = s.cfg.Store.Do(ctx, ev, func(tx account.Tx) error { return tx.DeletePasskey(c.User.ID, id) })
	return missing(err, "Passkey", "removing a passkey")
}
