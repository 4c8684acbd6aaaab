package invite

import (
	"bytes"
	"image/png"
	"net/netip"
	"strings"
	"testing"

	"rsc.io/qr"
)

func testPhone(t *testing.T) *Phone {
	return &Phone{
		Key: newKey(t), PSK: newPSK(t), Hub: newKey(t).Public(), MTU: 1280,
		V4: netip.MustParseAddr("10.77.1.2"), V6: netip.MustParseAddr("fd00:1:2:3::102"),
		DNS:      []netip.Addr{netip.MustParseAddr("10.77.0.53"), netip.MustParseAddr("fd00:1:2:3::35")},
		Networks: []netip.Prefix{netip.MustParsePrefix("10.77.0.0/16"), netip.MustParsePrefix("fd00:1:2:3::/64")},
		Endpoint: "hub.example.org:51820",
	}
}

// settings reads the configuration as wg-quick does: "#" starts a comment.
func settings(text string) map[string]string {
	m, section := map[string]string{}, ""
	for line := range strings.Lines(text) {
		line, _, _ = strings.Cut(line, "#")
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "[") {
			section = line
		} else if k, v, ok := strings.Cut(line, "="); ok {
			m[section+strings.TrimSpace(k)] = strings.TrimSpace(v)
		}
	}
	return m
}

func TestPhoneConfiguration(t *testing.T) {
	p := testPhone(t)
	text, err := p.Reveal()
	if err != nil {
		t.Fatal(err)
	}
	got := settings(text)
	for k, want := range map[string]string{
		"[Interface]PrivateKey":     p.Key.RevealText(),
		"[Interface]Address":        "10.77.1.2/32, fd00:1:2:3::102/128",
		"[Interface]DNS":            "10.77.0.53, fd00:1:2:3::35",
		"[Interface]MTU":            "1280",
		"[Peer]PublicKey":           p.Hub.String(),
		"[Peer]PresharedKey":        p.PSK.RevealText(),
		"[Peer]AllowedIPs":          "10.77.0.0/16, fd00:1:2:3::/64",
		"[Peer]Endpoint":            "hub.example.org:51820",
		"[Peer]PersistentKeepalive": "25",
	} {
		if got[k] != want {
			t.Errorf("%s = %q, want %q", k, got[k], want)
		}
	}
	if len(got) != 9 {
		t.Errorf("%d settings, want 9", len(got))
	}
	p.Endpoint = "hub example:1\nPostUp = rm -rf /"
	if _, err := p.Reveal(); err == nil {
		t.Error("an endpoint smuggled a line into the configuration")
	}
}

func TestPhoneWithItsOwnKey(t *testing.T) {
	p := testPhone(t)
	p.Key = Phone{}.Key
	text, err := p.Reveal()
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := settings(text)["[Interface]PrivateKey"]; ok {
		t.Error("a private key from nowhere")
	}
	if _, err := p.QR(false); err == nil {
		t.Error("a QR code without the private key")
	}
}

// matrix reads a terminal drawing back: true is dark.
func matrix(t *testing.T, drawing string, colour bool) [][]bool {
	t.Helper()
	var rows [][]bool
	for line := range strings.Lines(drawing) {
		line = strings.TrimSuffix(line, "\n")
		if colour {
			var ok1, ok2 bool
			line, ok1 = strings.CutPrefix(line, "\x1b[38;5;16;48;5;231m")
			line, ok2 = strings.CutSuffix(line, "\x1b[0m")
			if !ok1 || !ok2 {
				t.Fatalf("line without its colours: %q", line)
			}
		}
		var above, below []bool
		for _, r := range line {
			ink := map[rune][2]bool{' ': {false, false}, '▀': {true, false}, '▄': {false, true}, '█': {true, true}}[r]
			above, below = append(above, ink[0] == colour), append(below, ink[1] == colour)
		}
		rows = append(rows, above, below)
	}
	return rows
}

func TestPhoneQR(t *testing.T) {
	p := testPhone(t)
	text, err := p.text(false)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(text, "#") {
		t.Error("comments make the QR code larger")
	}
	want, err := qr.Encode(text, qr.L)
	if err != nil {
		t.Fatal(err)
	}
	for _, colour := range []bool{false, true} {
		drawing, err := p.QR(colour)
		if err != nil {
			t.Fatal(err)
		}
		rows := matrix(t, drawing, colour)
		if len(rows) < want.Size+2*quiet {
			t.Fatalf("%d rows, want %d", len(rows), want.Size+2*quiet)
		}
		for y, row := range rows {
			if len(row) != want.Size+2*quiet {
				t.Fatalf("row %d has %d modules, want %d", y, len(row), want.Size+2*quiet)
			}
			for x, dark := range row {
				if dark != want.Black(x-quiet, y-quiet) {
					t.Fatalf("colour %v: module %d,%d is wrong", colour, x, y)
				}
			}
		}
	}
	image, err := p.PNG()
	if err != nil {
		t.Fatal(err)
	}
	img, err := png.Decode(bytes.NewReader(image))
	if err != nil {
		t.Fatal(err)
	}
	scale := img.Bounds().Dx() / (want.Size + 2*quiet)
	for y := range want.Size + 2*quiet {
		for x := range want.Size + 2*quiet {
			r, _, _, _ := img.At(x*scale+scale/2, y*scale+scale/2).RGBA()
			if (r == 0) != want.Black(x-quiet, y-quiet) {
				t.Fatalf("PNG: module %d,%d is wrong", x, y)
			}
		}
	}
}
