package main

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// acts are played in order. One that returns an error ends the tour; what is
// measured and false is said and counted instead.
var acts = []struct {
	title string
	play  func(*tour) error
}{
	{"A hub, and what the world sees of it", (*tour).actHub},
	{"Two machines join, each with one line", (*tour).actJoin},
	{"A phone joins with the stock WireGuard app", (*tour).actPhone},
	{"What the policy does not allow is refused at once, and explained", (*tour).actRefuse},
	{"From machine to machine, through the hub", (*tour).actPeers},
	{"A person signs in, and that is good on one machine only", (*tour).actAccounts},
	{"The policy is edited while a download runs", (*tour).actRevoke},
	{"The hub is killed and comes back", (*tour).actKill},
	{"Everything that was done is on record", (*tour).actAudit},
}

const (
	hubAddr  = "203.0.113.1"
	hubPort  = "51820"
	webPort  = "8123" // on the hub's machine, published as web
	secret   = "9999" // on the hub's machine, not published
	notes    = "7000" // on the pi, served as notes
	forward  = "127.0.0.1:8080"
	pageSize = 256 << 20
)

// policy is what the tour runs under; cut takes the phone's page away.
const policy = `{
	// ann reads the page, and from her laptop what the pi serves.
	"households": { "home": ["ann@"] },
	"groups":     { "group:admin": ["ann@"] },
	"tagOwners":  { "tag:speaker": ["group:admin"] },
	"acls": [
		{ "action": "accept", "src": ["ann@"], "proto": "tcp", "dst": ["svc:web:80"] },
		{ "action": "accept", "src": ["laptop"], "proto": "tcp", "dst": ["svc:notes:7000"] },
		{ "action": "accept", "src": ["group:admin"], "dst": ["svc:dns:53", "svc:auth"] },
	],
	"tests": [ { "src": "laptop", "proto": "tcp", "accept": ["svc:web:80"], "deny": ["svc:console:80"] } ],
	"never": [ { "src": ["tag:speaker"], "dst": ["svc:web:*", "svc:console:*"] } ],
}`

var cut = strings.Replace(policy, `"src": ["ann@"], "proto": "tcp", "dst": ["svc:web:80"]`,
	`"src": ["laptop"], "proto": "tcp", "dst": ["svc:web:80"]`, 1)

func (t *tour) startHub() (time.Duration, error) {
	if _, err := t.start("", "hub", t.bin+"/hub", "--dir", t.dir+"/hub", "run", "--listen", ":"+hubPort); err != nil {
		return 0, err
	}
	return t.until(15*time.Second, func() error {
		_, err := t.hub("status")
		return err
	})
}

func (t *tour) actHub() error {
	for addr, h := range map[string]http.Handler{"127.0.0.1:" + webPort: page(), "127.0.0.1:" + secret: http.NotFoundHandler()} {
		l, err := net.Listen("tcp", addr)
		if err != nil {
			return err
		}
		go func() { _ = http.Serve(l, h) }()
	}
	if _, err := t.hub("init", "--endpoint", hubAddr+":"+hubPort, "--admin", "ann"); err != nil {
		return err
	}
	took, err := t.startHub()
	if err != nil {
		return err
	}
	t.say(true, "up in %s, as an ordinary program: no TUN device, no capability", ms(took))
	if _, err := t.hub("publish", "web", "http://127.0.0.1:"+webPort); err != nil {
		return err
	}
	open, err := t.sh("ss -Hltn | awk '{print $4}' | grep -v '^127.0.0.1:' || true")
	if err != nil {
		return err
	}
	t.say(open == "", "it listens on no TCP port%s", unless(open == "", ": "+open))
	open, err = t.sh("ss -Hlun | awk '{print $4}' | sed 's/.*://' | sort -u")
	if err != nil {
		return err
	}
	t.say(open == hubPort, "it listens on UDP port %s and no other%s", hubPort, unless(open == hubPort, ": "+open))
	if out, err := t.helper("stranger", "scan", hubAddr); err != nil {
		return err
	} else {
		t.say(strings.HasPrefix(out, "0 open"), "a stranger tries all 65,535 TCP ports: %s", out)
	}
	out, err := t.helper("stranger", "knock", net.JoinHostPort(hubAddr, hubPort))
	if err != nil {
		return err
	}
	t.say(strings.HasPrefix(out, "0 answers"), "and knocks on the UDP port: %s", out)
	return nil
}

func (t *tour) actJoin() error {
	for _, m := range []struct{ name, flag, value string }{{"laptop", "--owner", "ann"}, {"pi", "--tag", "tag:speaker"}} {
		if m.name == "pi" {
			if err := t.apply(policyBefore); err != nil { // the tag must be known before a machine can carry it
				return err
			}
		}
		code, err := t.hub("invite", m.name, m.flag, m.value)
		if err != nil {
			return err
		}
		began := time.Now()
		if _, err := t.spoke(m.name, code, "join", "-"); err != nil {
			return err
		}
		t.say(true, "%s joined in %s; its key was made there and stayed there", m.name, ms(time.Since(began)))
		if m.name == "laptop" {
			_, err = t.spoke("thief", code, "join", "-")
			t.say(err != nil, "the same line, used a second time, is refused")
		}
	}
	if _, err := t.startHelper("home", "notes", "serve", "127.0.0.1:"+notes, "notes of the pi"); err != nil {
		return err
	}
	if _, err := t.start("home", "pi", t.bin+"/spoke", "--dir", t.dir+"/pi", "run", "--serve", "notes=127.0.0.1:"+notes); err != nil {
		return err
	}
	if _, err := t.start("home", "laptop", t.bin+"/spoke", "--dir", t.dir+"/laptop", "run", "--forward", forward+"=web.warren.internal:80",
		"--forward", authDoor+"=auth.warren.internal:7701"); err != nil {
		return err
	}
	if _, err := t.until(20*time.Second, func() error {
		services, err := t.hub("services")
		if err == nil && !strings.Contains(services, "notes") {
			err = errors.New("the pi does not serve its notes yet")
		}
		return err
	}); err != nil {
		return err
	}
	if err := t.apply(policy); err != nil {
		return err
	}
	took, err := t.until(10*time.Second, t.laptopReads)
	if err != nil {
		return err
	}
	t.say(took < 2*time.Second, "the laptop reads the page on the hub's machine through its own port 8080, %s after the policy allowed it", ms(took))
	speed, err := t.out("home", "", "curl", "-sS", "-o", "/dev/null", "-w", "%{speed_download}", "http://"+forward+"/big")
	if err != nil {
		return err
	}
	var rate float64
	if _, err := fmt.Sscan(speed, &rate); err != nil {
		return fmt.Errorf("reading curl's speed %q: %w", speed, err)
	}
	t.say(rate > 0, "and downloads 256 MB through it at %.0f Mbit/s", rate*8/1e6)
	return nil
}

// policyBefore is the policy without what does not exist yet.
var policyBefore = strings.Replace(policy, `
		{ "action": "accept", "src": ["laptop"], "proto": "tcp", "dst": ["svc:notes:7000"] },`, "", 1)

func (t *tour) apply(text string) error {
	file := filepath.Join(t.dir, "policy.hujson")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		return err
	}
	_, err := t.hub("acl", "apply", file)
	return err
}

func (t *tour) laptopReads() error {
	_, err := t.out("home", "", "curl", "-sS", "-f", "-m", "5", "http://"+forward+"/")
	return err
}

// phoneUp does by hand what the app does with the QR code, and returns the file
// that holds the phone's private key.
func (t *tour) phoneUp(conf string) (string, error) {
	var kept, addresses []string
	for line := range strings.Lines(conf) {
		key, value, _ := strings.Cut(line, "=")
		switch strings.TrimSpace(key) {
		case "Address":
			addresses = strings.Split(value, ",")
		case "DNS":
			t.phoneDNS = strings.TrimSpace(strings.Split(value, ",")[0])
		case "MTU":
		default:
			kept = append(kept, line)
		}
	}
	file := filepath.Join(t.dir, "phone.conf")
	if err := os.WriteFile(file, []byte(strings.Join(kept, "")), 0o600); err != nil {
		return "", err
	}
	if _, err := t.start("mobile", "phone", "wireguard-go", "-f", "wgphone"); err != nil {
		return "", err
	}
	if _, err := t.until(5*time.Second, func() error {
		_, err := t.out("mobile", "", "wg", "setconf", "wgphone", file)
		return err
	}); err != nil {
		return "", err
	}
	script := "ip link set wgphone mtu 1280 up\n"
	for _, a := range addresses {
		script += "ip addr add " + strings.TrimSpace(a) + " dev wgphone\n"
	}
	script += "ip route add 10.77.0.0/16 dev wgphone\n"
	_, err := t.out("mobile", script, "sh", "-e")
	return file, err
}

func (t *tour) actPhone() error {
	conf, err := t.hub("phone", "anns-phone", "--owner", "ann", "--conf")
	if err != nil {
		return err
	}
	file, err := t.phoneUp(conf)
	if err != nil {
		return err
	}
	began := time.Now()
	addr, err := t.resolve("web.warren.internal")
	if err != nil {
		return err
	}
	t.say(true, "it resolves web.warren.internal to %s, %s after it was switched on", addr, ms(time.Since(began)))
	out, err := t.out("mobile", "", "curl", "-sS", "-m", "5", "http://"+addr+"/")
	if err != nil {
		return err
	}
	t.say(strings.Contains(out, "peer=anns-phone user=ann"), "it reads the page, which knows who asks: %q", out)
	out, err = t.out("mobile", "", "curl", "-sS", "-m", "5", "-H", "X-Warren-User: root", "http://"+addr+"/")
	if err != nil {
		return err
	}
	t.say(strings.Contains(out, "user=ann") && !strings.Contains(out, "root"), "and cannot pretend to be somebody else: %q", out)
	files, err := t.sh("cat " + t.dir + "/hub/* " + t.dir + "/hub.log 2>/dev/null | grep -c -F \"$(sed -n 's/^PrivateKey *= *//p' " + file + ")\" || true")
	if err != nil {
		return err
	}
	t.say(files == "0", "its private key is in no file of the hub")
	return nil
}

func (t *tour) resolve(name string) (string, error) {
	var addr string
	_, err := t.until(10*time.Second, func() (err error) {
		addr, err = t.out("mobile", "", "dig", "+short", "+time=1", "+tries=1", "@"+t.phoneDNS, name)
		if err == nil && net.ParseIP(addr) == nil {
			err = fmt.Errorf("%s resolves to %q", name, addr)
		}
		return err
	})
	return addr, err
}

func (t *tour) actRefuse() error {
	web, err := t.resolve("web.warren.internal")
	if err != nil {
		return err
	}
	for _, try := range []struct{ what, to string }{
		{"another port of the same service", web + ":" + secret},
		{"the console", "10.77.0.4:80"},
		{"the hub's own address, a port that the hub's machine listens on", "10.77.0.1:" + secret},
	} {
		out, err := t.helper("mobile", "dial", try.to)
		if err != nil {
			return err
		}
		t.say(strings.HasPrefix(out, "refused"), "the phone tries %s: %s", try.what, out)
	}
	out, err := t.hub("acl", "explain", "anns-phone", "console:80")
	t.say(err != nil && out != "", "why? `hub acl explain anns-phone console:80` says:\n          %s", strings.ReplaceAll(out, "\n", "\n          "))
	bad := strings.Replace(policy, `"src": ["ann@"]`, `"src": ["*"]`, 1)
	err = t.apply(bad)
	t.say(err != nil, "a policy that breaks one of its own `never` sentences is not accepted: %s", lastLine(err))
	return nil
}

func (t *tour) actPeers() error {
	began := time.Now()
	out, err := t.spoke("laptop", "", "get", "http://notes.warren.internal:"+notes+"/")
	if err != nil {
		return err
	}
	t.say(out == "notes of the pi", "the laptop reads %q from the pi in %s", out, ms(time.Since(began)))
	addr, err := t.hubServiceAddr("notes")
	if err != nil {
		return err
	}
	out, err = t.helper("mobile", "dial", net.JoinHostPort(addr, notes))
	if err != nil {
		return err
	}
	t.say(strings.HasPrefix(out, "refused"), "the phone, which no rule lets, tries the same: %s", out)
	return nil
}

func (t *tour) actRevoke() error {
	web, err := t.resolve("web.warren.internal")
	if err != nil {
		return err
	}
	report := filepath.Join(t.dir, "download")
	p, err := t.startHelper("mobile", "download", "download", "http://"+web+"/endless", report)
	if err != nil {
		return err
	}
	if _, err := t.until(10*time.Second, func() error {
		_, err := os.Stat(report)
		return err
	}); err != nil {
		return err
	}
	began := time.Now()
	if err := t.apply(cut); err != nil {
		return err
	}
	returned := time.Now()
	select {
	case <-p.done:
	case <-time.After(10 * time.Second):
		t.say(false, "the download goes on")
		return nil
	}
	d, err := readDownload(report)
	if err != nil {
		return err
	}
	// The hub lets nothing out after it has said "done". What it let out before
	// may still be on the wire, and in the phone's own queue, for a moment.
	t.say(d.bytes > 0 && d.last.Sub(returned) < 50*time.Millisecond, "`hub acl apply` took %s; the last byte reached the phone's program %s",
		ms(returned.Sub(began)), beforeAfter(d.last.Sub(returned)))
	t.say(d.ended.Sub(returned) < 250*time.Millisecond, "the phone's connection was reset %s, after %d MB: %s", beforeAfter(d.ended.Sub(returned)), d.bytes>>20, d.why)
	t.say(t.laptopReads() == nil, "the laptop, which the new policy still allows, reads on")
	return t.apply(policy)
}

func (t *tour) actKill() error {
	// Where a machine is, the hub writes down within a second; the phone came
	// hardly earlier than that.
	select {
	case <-time.After(1500 * time.Millisecond):
	case <-t.ctx.Done():
	}
	for _, p := range t.procs {
		if filepath.Base(p.log) == "hub.log" {
			p.kill(syscall.SIGKILL)
		}
	}
	ready, err := t.startHub()
	if err != nil {
		return err
	}
	t.say(true, "kill -9; the next start is ready in %s", ms(ready))
	web := ""
	laptop, err := t.until(15*time.Second, t.laptopReads)
	if err != nil {
		return err
	}
	phone, err := t.until(30*time.Second, func() (err error) {
		if web, err = t.resolve("web.warren.internal"); err == nil {
			_, err = t.out("mobile", "", "curl", "-sS", "-m", "1", "http://"+web+"/")
		}
		return err
	})
	if err != nil {
		return err
	}
	t.say(laptop < 2*time.Second, "the laptop is back %s later", ms(laptop))
	t.say(phone < 2*time.Second, "so is the phone, %s after that, because the hub calls it", ms(phone))
	return nil
}

func (t *tour) actAudit() error {
	out, err := t.hub("audit", "verify")
	t.say(err == nil, "`hub audit verify`: %s", strings.ReplaceAll(out, "\n", " "))
	out, err = t.hub("doctor")
	t.say(err == nil, "`hub doctor` finds nothing wrong%s", unless(err == nil, ":\n"+out))
	return nil
}
