package invite

import (
	"context"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"github.com/warrenmesh/warren/peer"
)

// Path is where the enrolment service takes a Request, by POST.
const Path = "/v1/enrol"

// Limits of the conversation, in bytes.
const (
	maxRequest = 4 << 10
	maxReply   = 64 << 10
	maxText    = 64 // Platform and Version, characters
)

// ErrRefused is what a Registry returns, possibly wrapped with the reason for
// the log, for an invite that is used, expired, revoked or unknown. The caller
// sees the same answer for all of them: it must not learn which.
var ErrRefused = errors.New("the hub does not take this invite: it is used, expired or withdrawn; ask the admin for a new one")

// Request is what the joining machine sends.
type Request struct {
	PublicKey peer.PublicKey `json:"public_key"`
	// Proof shows that the sender holds the private half of PublicKey, in
	// this very TLS connection. Handler has checked it before a Registry
	// sees the request.
	Proof []byte `json:"proof"`
	// Platform and Version describe the machine ("linux/arm64", "0.1.0"), at
	// most 64 printable ASCII characters each. They are claims, not facts.
	Platform string `json:"platform"`
	Version  string `json:"version"`
}

// Reply is what a machine needs to be a peer. PSK is a secret, so a Reply does
// not marshal; Handler and Redeem carry it inside the pinned TLS connection.
type Reply struct {
	ID        peer.ID
	Name      string
	V4, V6    netip.Addr
	PSK       peer.PresharedKey
	Hub       peer.PublicKey
	Endpoint  string
	NetV4     netip.Prefix
	NetV6     netip.Prefix
	Domain    string
	DNS       []netip.Addr
	Sync      netip.AddrPort
	MTU       int
	Owner     string
	Household string
	Tags      []string
	Kind      peer.Kind
}

// Registry is the hub's book of invites and peers.
type Registry interface {
	// Enrol makes the request's key a peer and the invite used, in one step,
	// or does neither. For the key that used the invite already it returns
	// the same Reply again, because the first one may have been lost. For
	// every other reason to say no it returns ErrRefused.
	Enrol(ctx context.Context, invitePeer peer.Peer, req Request) (Reply, error)
}

// wire is a Reply with its secret spelled out.
type wire struct {
	ID        peer.ID        `json:"id"`
	Name      string         `json:"name"`
	V4        netip.Addr     `json:"v4"`
	V6        netip.Addr     `json:"v6"`
	PSK       []byte         `json:"psk"`
	Hub       peer.PublicKey `json:"hub"`
	Endpoint  string         `json:"endpoint"`
	NetV4     netip.Prefix   `json:"net_v4"`
	NetV6     netip.Prefix   `json:"net_v6"`
	Domain    string         `json:"domain"`
	DNS       []netip.Addr   `json:"dns"`
	Sync      netip.AddrPort `json:"sync"`
	MTU       int            `json:"mtu"`
	Owner     string         `json:"owner,omitempty"`
	Household string         `json:"household,omitempty"`
	Tags      []string       `json:"tags,omitempty"`
	Kind      peer.Kind      `json:"kind"`
}

// Reveal returns the reply as JSON with its secret in it. ParseReply reads it.
func (r Reply) Reveal() ([]byte, error) {
	psk := r.PSK.Reveal()
	b, err := json.Marshal(wire{
		r.ID, r.Name, r.V4, r.V6, psk[:], r.Hub, r.Endpoint, r.NetV4, r.NetV6,
		r.Domain, r.DNS, r.Sync, r.MTU, r.Owner, r.Household, r.Tags, r.Kind,
	})
	if err != nil {
		return nil, fmt.Errorf("writing enrolment reply: %w", err)
	}
	return b, nil
}

// ParseReply reads what Reveal wrote and checks that it describes a peer.
func ParseReply(b []byte) (Reply, error) {
	var w wire
	if err := json.Unmarshal(b, &w); err != nil {
		return Reply{}, errors.New("reading enrolment reply: it is not what a hub of this version sends")
	}
	psk, err := peer.PresharedKeyFrom(w.PSK)
	if err != nil {
		return Reply{}, errors.New("reading enrolment reply: it lacks the pre-shared key")
	}
	r := Reply{
		w.ID, w.Name, w.V4, w.V6, psk, w.Hub, w.Endpoint, w.NetV4, w.NetV6,
		w.Domain, w.DNS, w.Sync, w.MTU, w.Owner, w.Household, w.Tags, w.Kind,
	}
	return r, r.validate()
}

func (r *Reply) validate() error {
	if err := peer.ValidName(r.Name); err != nil {
		return fmt.Errorf("reading enrolment reply: %w", err)
	}
	if err := ValidEndpoint(r.Endpoint); err != nil {
		return fmt.Errorf("reading enrolment reply: %w", err)
	}
	switch {
	case r.ID == "" || r.Hub.IsZero():
		return errors.New("reading enrolment reply: it names no peer or no hub")
	case !r.V4.Is4() || !plain6(r.V6) || !r.NetV4.Contains(r.V4) || !r.NetV6.Contains(r.V6):
		return errors.New("reading enrolment reply: the addresses are not inside the mesh's networks")
	case !r.NetV4.Contains(r.Sync.Addr()) && !r.NetV6.Contains(r.Sync.Addr()) || r.Sync.Port() == 0:
		return errors.New("reading enrolment reply: the sync service is not inside the mesh's networks")
	case r.MTU < 1280 || r.MTU > 65535:
		return fmt.Errorf("reading enrolment reply: an MTU of %d is outside 1280 to 65535", r.MTU)
	case !hostName(r.Domain):
		return errors.New("reading enrolment reply: the domain is no domain name")
	}
	for _, a := range r.DNS {
		if !r.NetV4.Contains(a) && !r.NetV6.Contains(a) {
			return errors.New("reading enrolment reply: the name server is not inside the mesh's networks")
		}
	}
	return nil
}

// proof binds the new key to this TLS connection: only who holds either
// private key can compute the shared secret, and the exporter (RFC 8446,
// section 7.5; RFC 9266 for the idea) is different in every connection, so a
// proof cannot be carried into another one.
func proof(cs *tls.ConnectionState, shared []byte, newKey, throwAway peer.PublicKey) ([]byte, error) {
	context := append(append([]byte{}, newKey[:]...), throwAway[:]...)
	exported, err := cs.ExportKeyingMaterial("EXPORTER-warren-enrol-1", context, 32)
	if err != nil {
		return nil, fmt.Errorf("binding to the connection: %w", err)
	}
	key, err := hkdf.Key(sha256.New, shared, nil, "warren enrol proof 1", 32)
	if err != nil {
		return nil, fmt.Errorf("deriving proof key: %w", err)
	}
	mac := hmac.New(sha256.New, key)
	mac.Write(exported)
	return mac.Sum(nil), nil
}

// problem is the body of every answer that is not a Reply.
type problem struct {
	Error string `json:"error"`
}

// Handler returns the enrolment service. It must be served over TLS with an
// Identity's TLSConfig, and the request's context must hold the throw-away
// peer that the tunnel vouches for (peer.NewContext); without either it
// refuses. A nil logger discards.
func Handler(hubKey peer.PrivateKey, r Registry, logger *slog.Logger) http.Handler {
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	h := &handler{hubKey: hubKey, registry: r, logger: logger}
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+Path, h.enrol)
	return mux
}

type handler struct {
	hubKey   peer.PrivateKey
	registry Registry
	logger   *slog.Logger

	mu      sync.Mutex
	since   time.Time // when logFor began
	refused int       // how many refusals there were, since
}

// At most logLines refusals are logged in logFor: whoever holds an invite, a
// spent one too, must not fill the disk with them.
const (
	logLines = 20
	logFor   = time.Minute
)

func (h *handler) enrol(w http.ResponseWriter, req *http.Request) {
	caller, ok := peer.FromContext(req.Context())
	if !ok || caller.Kind != peer.KindInvite {
		h.refuse(w, "the caller is not an invite", caller)
		return
	}
	var body Request
	dec := json.NewDecoder(http.MaxBytesReader(w, req.Body, maxRequest))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&body); err != nil || dec.More() || !valid(&body) {
		answer(w, http.StatusBadRequest, problem{"the request is not one for enrolment; update this machine's spoke"})
		return
	}
	if why := h.check(req, &body, caller); why != "" {
		h.refuse(w, why, caller)
		return
	}
	reply, err := h.registry.Enrol(req.Context(), caller, body)
	switch {
	case errors.Is(err, ErrRefused):
		h.refuse(w, err.Error(), caller)
	case err != nil:
		h.logger.Error("enrolling", "invite", caller.ID, "err", err)
		answer(w, http.StatusInternalServerError, problem{"the hub could not enrol this machine just now; try again"})
	default:
		out, err := reply.Reveal()
		if err != nil {
			h.logger.Error("enrolling", "invite", caller.ID, "err", err)
			answer(w, http.StatusInternalServerError, problem{"the hub could not answer just now; try again"})
			return
		}
		send(w, http.StatusOK, out)
	}
}

func valid(r *Request) bool {
	return !r.PublicKey.IsZero() && len(r.Platform) <= maxText && len(r.Version) <= maxText &&
		printable(r.Platform) && printable(r.Version)
}

// check returns why the request is refused, "" if it is not.
func (h *handler) check(req *http.Request, body *Request, caller peer.Peer) string {
	if req.TLS == nil || !req.TLS.HandshakeComplete {
		return "the request came without TLS"
	}
	if body.PublicKey == h.hubKey.Public() || body.PublicKey == caller.PublicKey {
		return "the key is the hub's or the invite's own"
	}
	shared, err := h.hubKey.Shared(body.PublicKey)
	if err != nil {
		return err.Error()
	}
	want, err := proof(req.TLS, shared, body.PublicKey, caller.PublicKey)
	if err != nil {
		return err.Error()
	}
	if !hmac.Equal(want, body.Proof) {
		return "the proof of the private key is wrong"
	}
	return ""
}

// refuse gives the one answer for every reason: which it was stays in the log.
func (h *handler) refuse(w http.ResponseWriter, why string, caller peer.Peer) {
	h.note(why, caller)
	answer(w, http.StatusForbidden, problem{ErrRefused.Error()})
}

func (h *handler) note(why string, caller peer.Peer) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if time.Since(h.since) >= logFor {
		if more := h.refused - logLines; more > 0 {
			h.logger.Warn("further enrolments were refused", "times", more)
		}
		h.since, h.refused = time.Now(), 0
	}
	if h.refused++; h.refused <= logLines {
		h.logger.Warn("enrolment refused", "why", why, "invite", caller.ID)
	}
}

func answer(w http.ResponseWriter, status int, body problem) {
	b, err := json.Marshal(body)
	if err != nil {
		status, b = http.StatusInternalServerError, []byte("{}")
	}
	send(w, status, b)
}

func send(w http.ResponseWriter, status int, b []byte) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	// A client that is gone asks again with the same key.
	_, _ = w.Write(b)
}
