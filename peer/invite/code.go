// Package invite is how a stranger becomes a peer.
//
// An invite code is one line of text. It carries a throw-away WireGuard
// identity that reaches one port on the hub once: the enrolment service. The
// new machine opens a tunnel with that identity, and inside the tunnel a TLS
// connection whose server key is pinned by the code. There it shows the public
// half of a key pair that it made itself, proves that it holds the private
// half, and is told its name, its addresses and its pre-shared key. So nothing
// but one UDP port is needed for a first contact, no private key ever leaves
// the machine it was made on, and whoever else holds the code can at most use
// it first: it cannot listen to or alter a conversation of the right owner.
//
// The package holds both sides: Code and Redeem for the machine that joins,
// Identity and Handler for the hub. What an invite is worth (unknown, unused,
// used, expired, revoked) is decided by the hub's Registry, in one step with
// creating the peer. Phones that run the stock WireGuard app cannot enrol; for
// them Phone renders an ordinary configuration, as text and as a QR code.
package invite

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/warrenmesh/warren/peer"
)

// MaxCode is the longest accepted code, in bytes.
const MaxCode = 1024

const (
	prefix      = "warren1"
	checksumLen = 8
	maxEndpoint = 255 + len(":65535")
	maxID       = 64
	// maxExpires is the last second of the year 9999: later times do not
	// survive a trip through RFC 3339.
	maxExpires = 253402300799
)

// Code is everything that the holder of an invite needs. It holds secrets: it
// prints as "(redacted)", and Reveal is the one way to the text.
type Code struct {
	// Endpoint is where the hub is reached: host:port. The host is an
	// address or a name that the public DNS knows.
	Endpoint string
	// Hub is the hub's WireGuard key.
	Hub peer.PublicKey
	// Key and PSK belong to the throw-away peer.
	Key peer.PrivateKey
	PSK peer.PresharedKey
	// V4 and V6 are the throw-away peer's addresses in the tunnel.
	V4, V6 netip.Addr
	// EnrolV4 and EnrolV6 are the enrolment service's addresses in the tunnel.
	EnrolV4, EnrolV6 netip.Addr
	// Pin is the SHA-256 of the enrolment service's public key, as
	// Identity.Pin gives it.
	Pin [32]byte
	// Expires has whole seconds and is in UTC. The hub is the judge of it:
	// a machine without a clock may join.
	Expires time.Time
	// ID is the hub's name for the invite: 1 to 64 printable ASCII characters.
	ID string
}

// String, GoString, Format, LogValue and MarshalText keep the secrets of a
// code out of fmt, log/slog and encoding/json.
func (Code) String() string             { return "(redacted)" }
func (Code) GoString() string           { return "(redacted)" }
func (Code) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte("(redacted)")) }
func (Code) LogValue() slog.Value       { return slog.StringValue("(redacted)") }
func (Code) MarshalText() ([]byte, error) {
	return nil, errors.New("an invite code is not marshalled; Reveal it where that is meant")
}

// Reveal returns the line of text that Parse reads. A code that Validate
// refuses gives a text that Parse refuses.
func (c Code) Reveal() string {
	b := make([]byte, 0, 320)
	key, psk := c.Key.Reveal(), c.PSK.Reveal()
	b = append(b, c.Hub[:]...)
	b = append(b, key[:]...)
	b = append(b, psk[:]...)
	b = append(b, c.Pin[:]...)
	for _, v4 := range []netip.Addr{c.V4, c.EnrolV4} {
		a := [4]byte{}
		if v4.Is4() {
			a = v4.As4()
		}
		b = append(b, a[:]...)
	}
	for _, v6 := range []netip.Addr{c.V6, c.EnrolV6} {
		a := [16]byte{}
		if v6.IsValid() {
			a = v6.As16()
		}
		b = append(b, a[:]...)
	}
	b = binary.BigEndian.AppendUint64(b, uint64(c.Expires.Unix()))
	b = append(b, byte(min(len(c.ID), 255)))
	b = append(b, c.ID...)
	b = append(b, c.Endpoint...)
	sum := checksum(b)
	return prefix + base64.RawURLEncoding.EncodeToString(append(b, sum[:]...))
}

func checksum(payload []byte) [checksumLen]byte {
	sum := sha256.Sum256(append([]byte(prefix), payload...))
	return [checksumLen]byte(sum[:checksumLen])
}

// Errors of Parse. None of them quotes the code.
var (
	errNotCode = errors.New("reading invite: this is no invite code; it starts with \"warren1\" and is one line without spaces")
	errNewer   = errors.New("reading invite: the code was made by another version of Warren; update this machine, or ask for a code from a hub of this version")
	errDamaged = errors.New("reading invite: the code is incomplete or has a wrong character; copy it again, the whole line")
)

// Parse reads what Reveal wrote. It accepts exactly one text for each code, so
// text that it accepts is what Reveal gives back.
func Parse(s string) (Code, error) {
	if len(s) > MaxCode {
		return Code{}, fmt.Errorf("reading invite: %d bytes are too many; a code has at most %d", len(s), MaxCode)
	}
	body, ok := strings.CutPrefix(s, prefix)
	if !ok {
		if len(s) > len(prefix) && strings.HasPrefix(s, "warren") && '0' <= s[6] && s[6] <= '9' {
			return Code{}, errNewer
		}
		return Code{}, errNotCode
	}
	// The decoder skips line ends, which would give one code several texts.
	if strings.ContainsAny(body, "\r\n") {
		return Code{}, errDamaged
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(body)
	if err != nil || len(b) < checksumLen {
		return Code{}, errDamaged
	}
	payload, sum := b[:len(b)-checksumLen], b[len(b)-checksumLen:]
	want := checksum(payload)
	if subtle.ConstantTimeCompare(sum, want[:]) != 1 {
		return Code{}, errDamaged
	}
	c, err := decode(payload)
	if err != nil {
		return Code{}, err
	}
	if err := c.Validate(); err != nil {
		return Code{}, err
	}
	return c, nil
}

// reader takes fixed pieces off the front of a payload. After the first piece
// that is not there every other is zero, and short says so.
type reader struct {
	b     []byte
	short bool
}

func (r *reader) take(n int) []byte {
	if len(r.b) < n {
		r.short = true
		return make([]byte, n)
	}
	piece := r.b[:n]
	r.b = r.b[n:]
	return piece
}

func decode(payload []byte) (Code, error) {
	r := reader{b: payload}
	hub, key, psk, pin := r.take(32), r.take(32), r.take(32), r.take(32)
	v4, enrolV4, v6, enrolV6 := r.take(4), r.take(4), r.take(16), r.take(16)
	expires := binary.BigEndian.Uint64(r.take(8))
	id := r.take(int(r.take(1)[0]))
	if r.short {
		return Code{}, errDamaged
	}
	if expires == 0 || expires > maxExpires {
		return Code{}, errors.New("reading invite: its expiry is no date; ask for a new code")
	}
	c := Code{
		Endpoint: string(r.b), ID: string(id), Pin: [32]byte(pin),
		V4: netip.AddrFrom4([4]byte(v4)), EnrolV4: netip.AddrFrom4([4]byte(enrolV4)),
		V6: netip.AddrFrom16([16]byte(v6)), EnrolV6: netip.AddrFrom16([16]byte(enrolV6)),
		Expires: time.Unix(int64(expires), 0).UTC(),
	}
	var err error
	if c.Hub, err = peer.PublicKeyFrom(hub); err != nil {
		return Code{}, fmt.Errorf("reading invite: the hub's key: %w", err)
	}
	if c.Key, err = peer.PrivateKeyFrom(key); err != nil {
		return Code{}, fmt.Errorf("reading invite: its own key: %w", err)
	}
	if c.PSK, err = peer.PresharedKeyFrom(psk); err != nil {
		return Code{}, fmt.Errorf("reading invite: its pre-shared key: %w", err)
	}
	return c, nil
}

// Validate reports what is missing from c or wrong with it, nil if Reveal
// gives a text that Parse accepts.
func (c Code) Validate() error {
	switch {
	case c.Hub.IsZero() || c.Key.IsZero() || c.PSK.IsZero() || c.Pin == [32]byte{}:
		return errors.New("reading invite: a key is missing; ask for a new code")
	case c.Hub == c.Key.Public():
		return errors.New("reading invite: it carries the hub's own key; ask for a new code")
	case !c.V4.Is4() || !c.EnrolV4.Is4() || !plain6(c.V6) || !plain6(c.EnrolV6) || c.V4 == c.EnrolV4 || c.V6 == c.EnrolV6:
		return errors.New("reading invite: its addresses make no sense; ask for a new code")
	case c.Expires.Unix() <= 0 || c.Expires.Unix() > maxExpires:
		return errors.New("reading invite: its expiry is no date; ask for a new code")
	case c.ID == "" || len(c.ID) > maxID || !printable(c.ID):
		return fmt.Errorf("reading invite: its number must be 1 to %d printable characters; ask for a new code", maxID)
	}
	return ValidEndpoint(c.Endpoint)
}

func plain6(a netip.Addr) bool { return a.Is6() && !a.Is4In6() && a.Zone() == "" }

// printable reports whether s is printable ASCII, so that it can go into a log
// or a terminal.
func printable(s string) bool {
	for i := range len(s) {
		if s[i] < 0x20 || s[i] > 0x7e {
			return false
		}
	}
	return true
}

// ValidEndpoint accepts host:port, where host is an IP address (IPv6 in
// brackets) or a host name of ASCII letters, digits, hyphens and dots, and port
// is 1 to 65535 without leading zeros.
func ValidEndpoint(s string) error {
	if len(s) > maxEndpoint {
		return fmt.Errorf("reading endpoint: %d bytes are too many; it is host:port, as in \"hub.example.org:51820\"", len(s))
	}
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		return fmt.Errorf("reading endpoint %.80q: it is host:port, as in \"hub.example.org:51820\" or \"[2001:db8::1]:51820\"", s)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 || strconv.FormatUint(n, 10) != port {
		return fmt.Errorf("reading endpoint %.80q: the port is a number from 1 to 65535", s)
	}
	if addr, err := netip.ParseAddr(host); err == nil {
		if addr.IsUnspecified() || addr.IsMulticast() || addr.Zone() != "" {
			return fmt.Errorf("reading endpoint %.80q: nothing can be reached at this address", s)
		}
		return nil
	}
	if !hostName(host) {
		return fmt.Errorf("reading endpoint %.80q: the host is neither an address nor a host name", s)
	}
	return nil
}

func hostName(s string) bool {
	if s == "" || len(s) > 253 {
		return false
	}
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		for i := range len(label) {
			c := label[i]
			if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-' || c == '_') {
				return false
			}
		}
	}
	return true
}
