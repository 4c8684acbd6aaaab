package invite

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"runtime"
	"runtime/debug"
	"time"

	"github.com/warrenmesh/warren/peer"
)

const (
	attempts       = 6
	attemptTimeout = 10 * time.Second
)

// Dialer opens a connection through the throw-away tunnel. The address is an
// IP address and a port.
type Dialer func(ctx context.Context, network, addr string) (net.Conn, error)

// Redeem turns a code into a place on the mesh for newKey, of which only the
// public half is sent. A connection or answer that gets lost is tried again
// with the same key, alternating between the service's two addresses, up to
// six times or until ctx ends; an answer of "no" is final and is ErrRefused.
func Redeem(ctx context.Context, dial Dialer, code Code, newKey peer.PrivateKey) (Reply, error) {
	if err := code.Validate(); err != nil {
		return Reply{}, err
	}
	if newKey.IsZero() || newKey.Public() == code.Key.Public() {
		return Reply{}, errors.New("redeeming invite: the machine needs a new key of its own")
	}
	targets := []netip.Addr{code.EnrolV4, code.EnrolV6}
	var last error
	for n := range attempts {
		if n > 0 {
			select {
			case <-time.After(250 * time.Millisecond << (n - 1)):
			case <-ctx.Done():
				return Reply{}, fmt.Errorf("redeeming invite: %w (last: %w)", ctx.Err(), last)
			}
		}
		target := netip.AddrPortFrom(targets[n%len(targets)], 443)
		reply, err := redeemOnce(ctx, dial, target, &code, newKey)
		if err == nil {
			return reply, nil
		}
		last = err
		var final finalError
		if errors.As(err, &final) {
			return Reply{}, fmt.Errorf("redeeming invite: %w", final.err)
		}
		if ctx.Err() != nil {
			break
		}
	}
	return Reply{}, fmt.Errorf("redeeming invite: %w", last)
}

// finalError marks an answer that asking again will not change.
type finalError struct{ err error }

func (e finalError) Error() string { return e.err.Error() }
func (e finalError) Unwrap() error { return e.err }

func redeemOnce(ctx context.Context, dial Dialer, to netip.AddrPort, code *Code, key peer.PrivateKey) (Reply, error) {
	ctx, cancel := context.WithTimeout(ctx, attemptTimeout)
	defer cancel()
	raw, err := dial(ctx, "tcp", to.String())
	if err != nil {
		return Reply{}, fmt.Errorf("dialing enrolment service: %w", err)
	}
	conn := tls.Client(raw, ClientTLS(code.Pin))
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = raw.Close() })
	defer stop()
	if err := conn.HandshakeContext(ctx); err != nil {
		if errors.Is(err, ErrPin) {
			return Reply{}, finalError{ErrPin}
		}
		return Reply{}, fmt.Errorf("securing enrolment: %w", err)
	}
	req, err := newRequest(ctx, conn, code, key)
	if err != nil {
		return Reply{}, finalError{err}
	}
	if err := req.Write(conn); err != nil {
		return Reply{}, fmt.Errorf("sending enrolment: %w", err)
	}
	return readReply(conn, req, code)
}

func newRequest(ctx context.Context, conn *tls.Conn, code *Code, key peer.PrivateKey) (*http.Request, error) {
	shared, err := key.Shared(code.Hub)
	if err != nil {
		return nil, err
	}
	cs := conn.ConnectionState()
	mac, err := proof(&cs, shared, key.Public(), code.Key.Public())
	if err != nil {
		return nil, err
	}
	body, err := json.Marshal(Request{
		PublicKey: key.Public(), Proof: mac,
		Platform: runtime.GOOS + "/" + runtime.GOARCH, Version: version(),
	})
	if err != nil {
		return nil, fmt.Errorf("writing enrolment request: %w", err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://"+ServerName+Path, bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("writing enrolment request: %w", err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Close = true
	return req, nil
}

// version is what the build says of itself, for the admin's eyes only.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok || len(info.Main.Version) > maxText || !printable(info.Main.Version) {
		return ""
	}
	return info.Main.Version
}

func readReply(conn net.Conn, req *http.Request, code *Code) (Reply, error) {
	resp, err := http.ReadResponse(bufio.NewReader(io.LimitReader(conn, maxReply)), req)
	if err != nil {
		return Reply{}, fmt.Errorf("reading enrolment reply: %w", err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return Reply{}, fmt.Errorf("reading enrolment reply: %w", err)
	}
	switch {
	case resp.StatusCode == http.StatusForbidden:
		return Reply{}, finalError{ErrRefused}
	case resp.StatusCode >= 400 && resp.StatusCode < 500:
		return Reply{}, finalError{fmt.Errorf("the hub did not understand the request (HTTP %d); update this machine's spoke", resp.StatusCode)}
	case resp.StatusCode != http.StatusOK:
		return Reply{}, fmt.Errorf("the hub could not enrol this machine (HTTP %d)", resp.StatusCode)
	}
	reply, err := ParseReply(body)
	if err != nil {
		return Reply{}, finalError{err}
	}
	if reply.Hub != code.Hub {
		return Reply{}, finalError{errors.New("the reply names another hub than the invite; ask the admin for a new code")}
	}
	return reply, nil
}
