package invite

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"rsc.io/qr"

	"github.com/warrenmesh/warren/peer"
)

// keepalive is in seconds. A phone sits behind a mobile network's or a home
// router's address translation, which forgets a UDP flow after 30 seconds or
// more (RFC 4787, REQ-5, asks for 120). Without it the hub could not reach the
// phone, and the first request after a pause would be lost.
const keepalive = 25

// Phone is a peer that runs the stock WireGuard app. It cannot enrol, so its
// keys are made where the configuration is shown, and shown once.
type Phone struct {
	// Key is the phone's own. Zero if the phone keeps its key to itself (the
	// admin gave the hub its public half): the text then says where it goes.
	Key      peer.PrivateKey
	V4, V6   netip.Addr
	DNS      []netip.Addr
	MTU      int // 1280 to 65535
	Hub      peer.PublicKey
	PSK      peer.PresharedKey
	Networks []netip.Prefix // the overlay: what goes through the tunnel
	Endpoint string         // host:port, as ValidEndpoint takes it
}

// Reveal returns the configuration in the form that wg-quick and the WireGuard
// apps read, with comments. It holds the phone's private key: show it once, and
// store it nowhere.
func (p *Phone) Reveal() (string, error) { return p.text(true) }

func (p *Phone) text(comments bool) (string, error) {
	if err := p.validate(); err != nil {
		return "", err
	}
	var b strings.Builder
	note := func(s string) {
		if comments {
			b.WriteString("# " + s + "\n")
		}
	}
	b.WriteString("[Interface]\n")
	if p.Key.IsZero() {
		b.WriteString("# The private key never left the device: put it here.\n# PrivateKey = \n")
	} else {
		fmt.Fprintf(&b, "PrivateKey = %s\n", p.Key.RevealText())
	}
	fmt.Fprintf(&b, "Address = %s/32, %s/128\n", p.V4, p.V6)
	if len(p.DNS) > 0 {
		fmt.Fprintf(&b, "DNS = %s\n", list(p.DNS))
	}
	note("Small enough for every mobile network.")
	fmt.Fprintf(&b, "MTU = %d\n\n[Peer]\nPublicKey = %s\nPresharedKey = %s\n", p.MTU, p.Hub, p.PSK.RevealText())
	note("Only the mesh goes through the tunnel. Changing this gives no further rights: the hub decides.")
	fmt.Fprintf(&b, "AllowedIPs = %s\nEndpoint = %s\n", list(p.Networks), p.Endpoint)
	note("Keeps the way back open through routers that forget idle connections.")
	fmt.Fprintf(&b, "PersistentKeepalive = %s\n", strconv.Itoa(keepalive))
	return b.String(), nil
}

func list[T fmt.Stringer](items []T) string {
	texts := make([]string, len(items))
	for i, item := range items {
		texts[i] = item.String()
	}
	return strings.Join(texts, ", ")
}

func (p *Phone) validate() error {
	switch {
	case !p.V4.Is4() || !plain6(p.V6):
		return errors.New("writing phone configuration: it needs one IPv4 and one IPv6 address")
	case p.Hub.IsZero() || p.PSK.IsZero():
		return errors.New("writing phone configuration: the hub's key or the pre-shared key is missing")
	case len(p.Networks) == 0:
		return errors.New("writing phone configuration: no network goes through the tunnel")
	case p.MTU < 1280 || p.MTU > 65535:
		return fmt.Errorf("writing phone configuration: an MTU of %d is outside 1280 to 65535", p.MTU)
	}
	if err := ValidEndpoint(p.Endpoint); err != nil {
		return fmt.Errorf("writing phone configuration: %w", err)
	}
	return nil
}

// QR returns the configuration, without comments, as a QR code for the app's
// camera: a string of lines for a terminal, two modules to a character cell.
// With colour it sets black on white by itself; without, it expects light
// letters on a dark ground.
func (p *Phone) QR(colour bool) (string, error) {
	code, err := p.code()
	if err != nil {
		return "", err
	}
	return terminal(code, colour), nil
}

// PNG is QR as an image.
func (p *Phone) PNG() ([]byte, error) {
	code, err := p.code()
	if err != nil {
		return nil, err
	}
	return code.PNG(), nil
}

func (p *Phone) code() (*qr.Code, error) {
	if p.Key.IsZero() {
		return nil, errors.New("drawing QR code: the phone keeps its private key to itself, and the app cannot scan half a configuration; type in the text")
	}
	text, err := p.text(false)
	if err != nil {
		return nil, err
	}
	// The lowest level of redundancy keeps the code small: a screen has no
	// scratches.
	code, err := qr.Encode(text, qr.L)
	if err != nil {
		return nil, fmt.Errorf("drawing QR code: %w", err)
	}
	return code, nil
}

// quiet is the light margin that a reader needs, in modules (ISO/IEC 18004).
const quiet = 4

// terminal draws light modules as ink, because most terminals write light on
// dark; with colour it says so explicitly and draws dark modules as ink.
func terminal(code *qr.Code, colour bool) string {
	glyphs := [4]string{" ", "▄", "▀", "█"} // ink below = 1, above = 2
	start, end := "", "\n"
	if colour {
		start, end = "\x1b[38;5;16;48;5;231m", "\x1b[0m\n"
	}
	var b strings.Builder
	for y := -quiet; y < code.Size+quiet; y += 2 {
		b.WriteString(start)
		for x := -quiet; x < code.Size+quiet; x++ {
			cell := 0
			if code.Black(x, y) == colour {
				cell |= 2
			}
			if code.Black(x, y+1) == colour {
				cell |= 1
			}
			b.WriteString(glyphs[cell])
		}
		b.WriteString(end)
	}
	return b.String()
}
