package netstack

import (
	"bufio"
	"context"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"golang.zx2c4.com/wireguard/device"

	"github.com/warrenmesh/warren/peer"
)

// WireGuard's device is configured by text (its cross-platform interface). The
// text holds keys, so it begins and ends in this file, and no error about it
// quotes it.

// errUAPI stands for every error of the device about our text: its own words
// may quote a line, and a line may be a key.
var errUAPI = errors.New("the WireGuard device refused its configuration")

func (s *Stack) configure(text string) error {
	if text == "" {
		return nil
	}
	err := s.dev.IpcSet(text)
	var ipc *device.IPCError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &ipc):
		return fmt.Errorf("%w (code %d)", errUAPI, ipc.ErrorCode())
	}
	return errUAPI
}

// deviceText is the device's own part: its key and its port.
func deviceText(key peer.PrivateKey, port uint16) string {
	secret := key.Reveal()
	return fmt.Sprintf("private_key=%s\nlisten_port=%d\n", hex.EncodeToString(secret[:]), port)
}

// removals is the text that removes the peers that are in have and not in want.
func removals(have, want map[peer.PublicKey]PeerConfig) string {
	var b strings.Builder
	for key := range have {
		if _, stays := want[key]; !stays {
			fmt.Fprintf(&b, "public_key=%x\nremove=true\n", key[:])
		}
	}
	return b.String()
}

// additions is the text that makes have into want, once the removals are done.
// Peers that are the same in both are not mentioned: they keep their session
// and the endpoint they have roamed to. Addresses that move between two peers
// that both stay are taken before they are given.
func additions(have, want map[peer.PublicKey]PeerConfig) string {
	var taken, b strings.Builder
	for key, c := range want {
		old, known := have[key]
		if known && c.equal(&old) {
			continue
		}
		if known {
			fmt.Fprintf(&taken, "public_key=%x\nupdate_only=true\nreplace_allowed_ips=true\n", key[:])
		}
		psk := c.PSK.Reveal()
		fmt.Fprintf(&b, "public_key=%x\n", key[:])
		if !known || !samePSK(c.PSK, old.PSK) {
			fmt.Fprintf(&b, "preshared_key=%s\n", hex.EncodeToString(psk[:]))
		}
		if c.Endpoint.IsValid() && (!known || c.Endpoint != old.Endpoint) {
			fmt.Fprintf(&b, "endpoint=%s\n", c.Endpoint)
		}
		fmt.Fprintf(&b, "persistent_keepalive_interval=%d\n", int(c.Keepalive/time.Second))
		for _, a := range c.Addresses {
			fmt.Fprintf(&b, "allowed_ip=%s\n", netip.PrefixFrom(a, a.BitLen()))
		}
		for _, r := range c.Routes {
			fmt.Fprintf(&b, "allowed_ip=%s\n", r)
		}
	}
	return taken.String() + b.String()
}

func samePSK(a, b peer.PresharedKey) bool {
	x, y := a.Reveal(), b.Reveal()
	return subtle.ConstantTimeCompare(x[:], y[:]) == 1
}

// deviceStatus reads the state of the device's peers. The text goes through a
// pipe, line by line; the lines with keys are never looked at.
func (s *Stack) deviceStatus() []PeerStatus {
	r, w := io.Pipe()
	go func() { _ = w.CloseWithError(s.dev.IpcGetOperation(w)) }()
	defer r.Close()
	var list []PeerStatus
	scanner := bufio.NewScanner(r)
	for scanner.Scan() {
		name, value, _ := strings.Cut(scanner.Text(), "=")
		if name == "public_key" {
			var key peer.PublicKey
			if n, err := hex.Decode(key[:], []byte(value)); err != nil || n != peer.KeySize {
				continue
			}
			list = append(list, PeerStatus{Key: key})
		} else if len(list) > 0 {
			list[len(list)-1].line(name, value)
		}
	}
	return list
}

func (p *PeerStatus) line(name, value string) {
	switch name {
	case "endpoint":
		p.Endpoint, _ = netip.ParseAddrPort(value)
	case "last_handshake_time_sec":
		if n, _ := strconv.ParseInt(value, 10, 64); n != 0 {
			p.LastHandshake = time.Unix(n, 0)
		}
	case "last_handshake_time_nsec":
		if n, _ := strconv.ParseInt(value, 10, 64); !p.LastHandshake.IsZero() {
			p.LastHandshake = p.LastHandshake.Add(time.Duration(n))
		}
	case "rx_bytes":
		p.RxBytes, _ = strconv.ParseUint(value, 10, 64)
	case "tx_bytes":
		p.TxBytes, _ = strconv.ParseUint(value, 10, 64)
	}
}

// The device says that it dropped a packet for its source address only in its
// debug log, in these words; TestW11 notices when they change.
const (
	spoofed4 = "IPv4 packet with disallowed source address from %v"
	spoofed6 = "IPv6 packet with disallowed source address from %v"
)

// deviceLogger is the device's log: errors go to log, its debug lines nowhere,
// except that those about spoofed sources are counted. Each line that is not
// printed is not formatted either.
func (p *path) deviceLogger(log *slog.Logger) *device.Logger {
	return &device.Logger{
		Verbosef: func(format string, args ...any) {
			if format != spoofed4 && format != spoofed6 || len(args) != 1 {
				return
			}
			if from, ok := args[0].(*device.Peer); ok {
				p.spoofed(from)
			}
		},
		Errorf: func(format string, args ...any) {
			if !log.Enabled(context.Background(), slog.LevelWarn) {
				return
			}
			// "%v - Failed to send data packets: no known endpoint for peer"
			// and its like come by the packet; one line each is enough noise
			// for debugging and none for everybody else.
			log.Debug("wireguard: " + fmt.Sprintf(format, args...))
		},
	}
}
