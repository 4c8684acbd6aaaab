package e2e_test

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
)

// phone is a machine with the stock WireGuard tools.
type phone struct {
	*machine
	mesh   *mesh
	called string
	app    *program // wireguard-go
	wg     string   // the interface
	conf   string   // what the QR code says
	v4, v6 string   // in the tunnel
}

// phone adds a phone and does with its configuration what the app does.
func (m *mesh) phone(name string, flags ...string) *phone {
	m.t.Helper()
	conf := m.admin(append([]string{"phone", name, "--conf"}, flags...)...)
	at := place()
	p := &phone{machine: newMachine(m.t, at, "ph"), mesh: m, called: name, conf: conf, wg: fmt.Sprintf("wg%d", at)}
	file := fmt.Sprintf("%s/%s.conf", m.dir, p.wg)
	if err := os.WriteFile(file, []byte(conf+"\n"), 0o600); err != nil {
		m.t.Fatal(err)
	}
	p.app = p.start(m.t, m.dir+"/"+name+".log", "wireguard-go", "-f", p.wg)
	until(m.t, "wireguard-go has its socket", func() bool {
		_, err := os.Stat("/run/wireguard/" + p.wg + ".sock")
		return err == nil
	})
	// wg-quick takes out what wg does not know: addresses, DNS and MTU.
	p.must(m.t, p.must(m.t, "", "wg-quick", "strip", file), "wg", "setconf", p.wg, "/dev/stdin")
	p.ip("link", "set", p.wg, "mtu", p.setting("MTU")[0], "up")
	for _, a := range p.setting("Address") {
		p.ip("addr", "add", a, "dev", p.wg)
	}
	for _, a := range p.setting("AllowedIPs") {
		p.ip("route", "add", a, "dev", p.wg)
	}
	p.v4, _, _ = strings.Cut(p.setting("Address")[0], "/")
	p.v6, _, _ = strings.Cut(p.setting("Address")[1], "/")
	if err := os.WriteFile(resolvConf, []byte("nameserver "+strings.Join(p.setting("DNS"), "\nnameserver ")+"\n"), 0o644); err != nil {
		m.t.Fatal(err)
	}
	return p
}

func (p *phone) ip(args ...string) {
	p.mesh.t.Helper()
	p.must(p.mesh.t, "", append([]string{"ip"}, args...)...)
}

// setting is a value of the configuration.
func (p *phone) setting(key string) []string {
	p.mesh.t.Helper()
	for line := range strings.Lines(p.conf) {
		k, value, _ := strings.Cut(line, "=")
		if strings.TrimSpace(k) == key {
			return strings.Split(strings.ReplaceAll(strings.TrimSpace(value), " ", ""), ",")
		}
	}
	p.mesh.t.Fatalf("the phone's configuration has no %s", key)
	return nil
}

// curl runs curl on the phone. Its exit codes: 7 refused, 28 timed out.
func (p *phone) curl(args ...string) result {
	p.mesh.t.Helper()
	return p.run(p.mesh.t, "", append([]string{"curl", "-sS", "--max-time", "15"}, args...)...)
}

// TestPhone is the main job from a phone's side: the stock app, the
// configuration as it is, names, pages, and refusals that come at once.
func TestPhone(t *testing.T) {
	m := newMesh(t)
	m.admin("publish", "secret", "http://"+privateAt)
	p := m.phone("ann-phone", "--owner", "ann")

	for _, kind := range []string{"A", "AAAA"} {
		if out := p.must(t, "", "dig", "+short", "+time=5", "page.warren.internal", kind); out == "" {
			t.Errorf("page.warren.internal has no %s record", kind)
		}
	}
	for _, family := range []string{"-4", "-6"} {
		r := p.curl(family, "http://page.warren.internal/")
		if r.code != 0 || r.out != "peer=ann-phone user=ann" {
			t.Errorf("curl %s: exit code %d, %q %s", family, r.code, r.out, r.errs)
		}
		t.Logf("curl %s: a page in %v", family, r.took.Round(time.Millisecond))
	}
	t.Run("Refused", func(t *testing.T) { refusedAtOnce(t, p) })
	t.Run("Ping", func(t *testing.T) {
		for _, family := range []string{"-4", "-6"} {
			if r := p.run(t, "", "ping", family, "-c1", "-W5", "hub.warren.internal"); r.code != 0 {
				t.Errorf("ping %s of the hub, which is allowed: %s%s", family, r.out, r.errs)
			}
			r := p.run(t, "", "ping", family, "-c1", "-W5", "page.warren.internal")
			if r.code == 0 || !strings.Contains(r.out, "filtered") && !strings.Contains(r.out, "prohibited") {
				t.Errorf("ping %s of a service, which is refused: exit code %d\n%s%s", family, r.code, r.out, r.errs)
			}
			t.Logf("ping %s refused after %v", family, r.took.Round(time.Millisecond))
		}
	})
}

// refusedAtOnce tries what the policy does not allow and what is not there.
func refusedAtOnce(t *testing.T, p *phone) {
	targets := map[string]string{
		"console":        "http://console.warren.internal/",
		"another page":   "http://secret.warren.internal/",
		"another port":   "http://page.warren.internal:8123/",
		"sync":           "http://sync.warren.internal:81/",
		"the hub itself": "http://hub.warren.internal:9999/",
		"dns over http":  "http://dns.warren.internal:80/",
	}
	addrs := strings.Fields(p.must(t, "", "dig", "+short", "page.warren.internal"))
	targets["an address"] = "https://" + addrs[0] + "/"
	for what, url := range targets {
		for _, family := range []string{"-4", "-6"} {
			if what == "an address" && family == "-6" {
				continue
			}
			r := p.curl(family, url)
			if r.code != 7 {
				t.Errorf("%s (curl %s %s): exit code %d, want 7 (refused)\n%s", what, family, url, r.code, r.errs)
			}
			if r.took > 5*time.Second {
				t.Errorf("%s: refused only after %v", what, r.took)
			}
			t.Logf("%s, curl %s: refused after %v", what, family, r.took.Round(time.Millisecond))
		}
	}
}
