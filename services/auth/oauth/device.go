package oauth

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"

	"github.com/warrenmesh/warren/peer"
	"github.com/warrenmesh/warren/peer/account"
)

// tooEarly is how much earlier than PollEvery a poll is taken: networks are not
// punctual.
const tooEarly = time.Second

// deviceAuthorization begins the device grant.
func (s *Server) deviceAuthorization(w http.ResponseWriter, r *http.Request, _ peer.Peer) {
	v, f := clientForm(r)
	if f != nil {
		f.write(w)
		return
	}
	// The endpoint is for one grant; whatever is said about one is not judged.
	s.handOn(w, r, only(v, "client_id", "client_secret", "scope"))
}

// DeviceAuthorization implements op.Server. The tokens will be bound to the
// machine that calls now.
func (p *protocol) DeviceAuthorization(ctx context.Context, r *op.ClientRequest[oidc.DeviceAuthorizationRequest]) (*op.Response, error) {
	who, ok := peer.FromContext(ctx)
	if !ok || !op.ValidateGrantType(r.Client, oidc.GrantTypeDeviceCode) {
		return nil, grantError(oidc.ErrUnauthorizedClient(), "The client may not use the device grant.")
	}
	code, shown, err := p.newDevice(ctx, who, r.Client.GetID(), knownScopes(strings.Join(r.Data.Scopes, " ")))
	if err != nil {
		return nil, p.failure("beginning a device authorization", err)
	}
	return op.NewResponse(&oidc.DeviceAuthorizationResponse{
		DeviceCode: code, UserCode: shown, VerificationURI: p.s.cfg.Issuer + pathDevice,
		VerificationURIComplete: p.s.cfg.Issuer + pathDevice + "?user_code=" + url.QueryEscape(shown),
		ExpiresIn:               int(DeviceLife / time.Second), Interval: int(PollEvery / time.Second),
	}), nil
}

// newDevice notes a device and returns its code and the one that a person types.
func (p *protocol) newDevice(ctx context.Context, who peer.Peer, client string, scope []string) (code, shown string, err error) {
	// 20 letters without vowels: no words, nothing to mix up (RFC 8628, section
	// 6.1). 8 of them are 34 bits, to be guessed within minutes by somebody who
	// has to sign in for each guess.
	for range 3 {
		code = newSecret()
		shown, err = op.NewUserCode([]rune(op.CharSetBase20), 8, 4)
		if err != nil {
			return "", "", fmt.Errorf("making a user code: %w", err)
		}
		err = p.s.cfg.Store.Keep(ctx, func(tx account.Tx) error {
			return tx.CreateDevice(account.Device{
				Hash: hash(code), UserCode: userCode(shown), Client: client, Scope: strings.Join(scope, " "),
				Peer: who.ID, Key: who.PublicKey, Created: tx.Now(), Expires: tx.Now().Add(DeviceLife),
			})
		})
		if !errors.Is(err, account.ErrExists) {
			break
		}
	}
	return code, shown, err
}

// userCode is a user code as it is stored, from the way somebody typed it.
func userCode(typed string) string {
	return strings.Map(func(r rune) rune {
		if strings.ContainsRune(op.CharSetBase20, r) {
			return r
		}
		return -1
	}, strings.ToUpper(typed))
}

// badDevice refuses a device code that is unknown, or not the caller's.
func badDevice() error {
	return grantError(oidc.ErrInvalidGrant(), "The device code is not valid: it was used, or is another client's or machine's.")
}

// DeviceToken implements op.Server. A code is judged for the machine and the
// client that asked for it only; others see, and change, nothing.
func (p *protocol) DeviceToken(ctx context.Context, r *op.ClientRequest[oidc.DeviceAccessTokenRequest]) (*op.Response, error) {
	who, ok := peer.FromContext(ctx)
	if !ok {
		return nil, badDevice()
	}
	var out grant
	var wait error // an answer that is stored together with the poll
	err := p.s.cfg.Store.Keep(ctx, func(tx account.Tx) (err error) {
		out, wait = grant{}, nil
		wait, err = p.poll(ctx, tx, who, r, &out)
		return err
	})
	if errors.Is(err, account.ErrConflict) {
		return nil, badDevice()
	}
	if err != nil {
		return nil, p.grantRefusal("redeeming a device code", err)
	}
	if wait != nil {
		return nil, wait
	}
	return p.granted(out)
}

func (p *protocol) poll(ctx context.Context, tx account.Tx, who peer.Peer, r *op.ClientRequest[oidc.DeviceAccessTokenRequest], out *grant) (wait, err error) {
	code := hash(r.Data.DeviceCode)
	d, err := tx.Device(code)
	if errors.Is(err, account.ErrNotFound) {
		return nil, badDevice()
	} else if err != nil {
		return nil, fmt.Errorf("finding a device code: %w", err)
	}
	now := tx.Now()
	switch {
	case d.Client != r.Client.GetID() || d.Peer != who.ID || d.Key != who.PublicKey || !d.Redeemed.IsZero():
		return nil, badDevice()
	case d.Denied:
		return nil, grantError(oidc.ErrAccessDenied(), "The person refused.")
	case !now.Before(d.Expires):
		return nil, grantError(oidc.ErrExpiredDeviceCode(), "The device code is over; ask for another.")
	case d.User == 0:
		early := !d.LastPoll.IsZero() && now.Sub(d.LastPoll) < PollEvery-tooEarly
		if err := tx.PollDevice(code); err != nil {
			return nil, fmt.Errorf("noting a poll: %w", err)
		}
		if early {
			return grantError(oidc.ErrSlowDown(), "Ask less often: five seconds more between two polls."), nil
		}
		return grantError(oidc.ErrAuthorizationPending(), "The person has not decided yet."), nil
	}
	if err := tx.RedeemDevice(code); err != nil {
		return nil, fmt.Errorf("redeeming a device code: %w", err)
	}
	return nil, p.start(ctx, tx, account.Session{
		ID: newSecret(), User: d.User, Peer: d.Peer, Key: d.Key, Household: d.Household, Client: d.Client,
		Scope: d.Scope, AuthTime: d.AuthTime, Methods: d.Methods,
	}, "oauth.device", out)
}

// findDevice finds a device that waits for its person, by what was typed.
func findDevice(tx account.Tx, typed string) (account.Device, account.Client, error) {
	code := userCode(typed)
	if len(code) != 8 || len(typed) > 32 {
		return account.Device{}, account.Client{}, account.ErrNotFound
	}
	d, err := tx.DeviceByUserCode(code)
	if err != nil {
		return d, account.Client{}, fmt.Errorf("finding a device: %w", err)
	}
	if d.User != 0 || d.Denied || !tx.Now().Before(d.Expires) {
		return d, account.Client{}, account.ErrNotFound
	}
	c, err := tx.Client(d.Client)
	if err != nil {
		return d, c, fmt.Errorf("finding its client: %w", err)
	}
	return d, c, nil
}
