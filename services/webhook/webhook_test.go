package webhook

import (
	"bytes"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/warrenmesh/warren/hub/store"
	"github.com/warrenmesh/warren/hub/store/storetest"
)

// TestK05_Timestamps: every timestamp that is none or off is refused in the
// right words, and both ends of the window are inside.
func TestK05_Timestamps(t *testing.T) {
	k := newKit(t, storetest.Open(t))
	now := k.now.Unix()
	at := func(ts string) event {
		e := k.signed("door", "", "{}")
		// Signed as it is sent: the refusal is for the time alone.
		e.headers.Set(HeaderTimestamp, ts)
		e.headers.Set(HeaderSignature, fmt.Sprintf("sha256=%x", sum([]byte(secret+"door"), "", ts, []byte("{}"))))
		return e
	}
	none := at("1")
	none.headers.Del(HeaderTimestamp)
	two := k.signed("door", "", "{}")
	two.headers.Add(HeaderTimestamp, two.headers.Get(HeaderTimestamp))
	twice := k.signed("door", "", "{}")
	twice.headers.Add(HeaderSignature, twice.headers.Get(HeaderSignature))
	unsigned := k.signed("door", "", "{}")
	unsigned.headers.Del(HeaderSignature)
	n := func(d int64) string { return strconv.FormatInt(now+d, 10) }
	for _, c := range []struct {
		what   string
		e      event
		status int
		detail string
	}{
		{"missing", none, 400, "Invalid timestamp"},
		{"empty", at(""), 400, "Invalid timestamp"},
		{"two headers", two, 400, "Invalid timestamp"},
		{"negative", at("-1"), 400, "Invalid timestamp"},
		{"zero", at("0"), 400, "Invalid timestamp"},
		{"exponent", at("1e9"), 400, "Invalid timestamp"},
		{"fraction", at(n(0) + ".5"), 400, "Invalid timestamp"},
		{"plus", at("+" + n(0)), 400, "Invalid timestamp"},
		{"leading zero", at("0" + n(0)), 400, "Invalid timestamp"},
		{"leading space", at(" " + n(0)), 400, "Invalid timestamp"},
		{"trailing space", at(n(0) + " "), 400, "Invalid timestamp"},
		{"hexadecimal", at("0x6b49d200"), 400, "Invalid timestamp"},
		{"underscore", at(n(0)[:4] + "_" + n(0)[4:]), 400, "Invalid timestamp"},
		{"other digits", at("١٨٠٠٠٠٠٠٠٠"), 400, "Invalid timestamp"},
		{"full-width digits", at("１８００００００００"), 400, "Invalid timestamp"},
		{"milliseconds", at(n(0) + "000"), 400, "Invalid timestamp"},
		{"more than a number", at(strings.Repeat("9", 400)), 400, "Invalid timestamp"},
		{"far future", at("999999999999"), 400, "Timestamp expired"},
		{"long ago", at("1"), 400, "Timestamp expired"},
		{"301 s late", at(n(-301)), 400, "Timestamp expired"},
		{"301 s early", at(n(301)), 400, "Timestamp expired"},
		{"300 s late", at(n(-300)), 202, ""},
		{"300 s early", at(n(300)), 202, ""},
		{"no signature", unsigned, 401, "Invalid signature"},
		{"two signatures", twice, 401, "Invalid signature"},
	} {
		status, detail := k.send(c.e)
		if status != c.status || c.detail != "" && detail != c.detail {
			t.Errorf("%s: %d %s, not %d %s", c.what, status, detail, c.status, c.detail)
		}
	}
}

func TestK05_Signatures(t *testing.T) {
	k := newKit(t, storetest.Open(t))
	good := k.signed("door", "", `{"ring":1}`)
	sig := good.headers.Get(HeaderSignature)
	for what, s := range map[string]string{
		"empty": "", "no prefix": sig[7:], "another prefix": "sha512=" + sig[7:], "upper prefix": "SHA256=" + sig[7:], "short": sig[:len(sig)-2], "long": sig + "00",
		"odd": sig[:len(sig)-1], "no hexadecimal": sig[:len(sig)-1] + "g", "not ASCII": sig[:len(sig)-1] + "é", "blank": sig + " ", "one bit": sig[:len(sig)-1] + flip(sig[len(sig)-1]),
		"another hook's": k.signed("gate", "", `{"ring":1}`).headers.Get(HeaderSignature), "another body's": k.signed("door", "", `{"ring":2}`).headers.Get(HeaderSignature),
		"with an id": k.signed("door", "a", `{"ring":1}`).headers.Get(HeaderSignature),
	} {
		e := k.signed("door", "", `{"ring":1}`)
		e.headers[HeaderSignature] = []string{s}
		if status, detail := k.send(e); status != 401 || detail != "Invalid signature" {
			t.Errorf("%s: %d %s", what, status, detail)
		}
	}
	// A hook that does not exist is a wrong signature, in the same words.
	for _, hook := range []string{"nothing", "%00", "DOOR", strings.Repeat("a", 300)} {
		e := good
		e.target = "/hooks/" + hook
		if status, detail := k.send(e); status != 401 || detail != "Invalid signature" {
			t.Errorf("hook %.20q: %d %s", hook, status, detail)
		}
	}
	e := k.signed("door", "", strings.Repeat("x", MaxBody+1))
	if status, _ := k.send(e); status != http.StatusRequestEntityTooLarge {
		t.Errorf("a body too large: %d", status)
	}
	for _, body := range []string{"", "\x00\xff", "text", strings.Repeat("x", MaxBody)} {
		if status, detail := k.send(k.signed("door", "", body)); status != 202 {
			t.Errorf("%.10q: %d %s", body, status, detail)
		}
	}
}

func flip(c byte) string {
	if c == '0' {
		return "1"
	}
	return "0"
}

// TestK05_DotMoves: no text that was signed without an id passes for one with,
// nor the other way round.
func TestK05_DotMoves(t *testing.T) {
	k := newKit(t, storetest.Open(t))
	ts := strconv.FormatInt(k.now.Unix(), 10)
	plain := k.signed("door", "", ts+".open")
	plain.headers.Set(HeaderID, ts) // "{ts}.{ts}.open" either way
	plain.body = "open"
	if status, detail := k.send(plain); status != 400 || detail != "Invalid id" {
		t.Errorf("a timestamp as an id: %d %s", status, detail)
	}
	for _, id := range []string{"1", "a.b", "a b", "é", strings.Repeat("a", 129), ".", ""} {
		e := k.signed("door", "", "{}")
		e.headers[HeaderID] = []string{id}
		e.headers.Set(HeaderSignature, fmt.Sprintf("sha256=%x", sum([]byte(secret+"door"), id, ts, []byte("{}"))))
		if status, detail := k.send(e); status != 400 || detail != "Invalid id" {
			t.Errorf("id %.10q: %d %s", id, status, detail)
		}
		if _, err := Sign([]byte(secret), id, k.now, nil); id != "" && err == nil {
			t.Errorf("id %.10q is signed", id)
		}
	}
	two := k.signed("door", "a", "{}")
	two.headers.Add(HeaderID, "b")
	if status, _ := k.send(two); status != 400 {
		t.Errorf("two ids: %d", status)
	}
}

// TestK06_AcceptedOnce replays a delivery, 32 times at once, in other spellings,
// with a new time, and after a restart.
func TestK06_AcceptedOnce(t *testing.T) { storetest.Each(t, acceptedOnce) }

func acceptedOnce(t *testing.T, cfg store.Config) {
	st, err := store.Create(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	k := newKit(t, st)
	for _, id := range []string{"", "evt-1"} {
		e := k.signed("door", id, `{"ring":1}`)
		accepted, refused := k.sendAll(e, 32)
		if accepted != 1 || refused != 31 {
			t.Errorf("id %q: accepted %d times, refused %d", id, accepted, refused)
		}
		e.headers.Set(HeaderSignature, "sha256="+strings.ToUpper(e.headers.Get(HeaderSignature)[7:]))
		if status, detail := k.send(e); status != 409 || detail != "Already accepted" {
			t.Errorf("id %q in capitals: %d %s", id, status, detail)
		}
	}
	k.now = k.now.Add(time.Minute)
	if status, _ := k.send(k.signed("door", "evt-1", `{"ring":2}`)); status != 409 {
		t.Errorf("the id with a new time: %d", status)
	}
	if status, _ := k.send(k.signed("door", "evt-2", `{"ring":1}`)); status != 202 {
		t.Errorf("another id: %d", status)
	}
	if status, _ := k.send(k.signed("gate", "evt-1", `{"ring":1}`)); status != 202 {
		t.Errorf("the id at another hook: %d", status)
	}
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}
	if st, err = store.Open(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	k.serve(st)
	for _, id := range []string{"", "evt-1"} {
		k.now = time.Unix(1_800_000_000, 0)
		e := k.signed("door", id, `{"ring":1}`)
		// At the last moment of the window.
		k.now = k.now.Add(Window)
		if status, _ := k.send(e); status != 409 {
			t.Errorf("id %q after a restart: %d", id, status)
		}
	}
}

// TestK06_ManyAtOnce: different deliveries at the same time are all accepted.
func TestK06_ManyAtOnce(t *testing.T) {
	storetest.Each(t, func(t *testing.T, cfg store.Config) {
		k := newKit(t, storetest.Create(t, cfg))
		var wg sync.WaitGroup
		for n := range 32 {
			e := k.signed("door", fmt.Sprint("evt-", n), "{}")
			wg.Go(func() {
				if status, detail := k.send(e); status != 202 {
					t.Errorf("%d: %d %s", n, status, detail)
				}
			})
		}
		wg.Wait()
	})
}

func (k *kit) sendAll(e event, n int) (accepted, refused int) {
	var mu sync.Mutex
	var wg sync.WaitGroup
	for range n {
		wg.Go(func() {
			status, _ := k.send(e)
			mu.Lock()
			defer mu.Unlock()
			switch status {
			case 202:
				accepted++
			case 409:
				refused++
			}
		})
	}
	wg.Wait()
	return accepted, refused
}

// TestK07_SecretIsNeverTheCallers names the secret everywhere a request can.
func TestK07_SecretIsNeverTheCallers(t *testing.T) {
	k := newKit(t, storetest.Open(t))
	own := []byte("a secret that the caller has chosen")
	for _, where := range []func(*event){
		func(e *event) { e.target = "/hooks/door?secret=" + strings.ReplaceAll(string(own), " ", "+") },
		func(e *event) { e.target = "/hooks/door?hook_secret=" + strings.ReplaceAll(string(own), " ", "+") },
		func(e *event) { e.headers.Set("X-Jarvis-Secret", string(own)) },
		func(e *event) { e.headers.Set("Secret", string(own)) },
		func(e *event) { e.headers.Set("Cookie", "secret="+string(own)) },
		func(e *event) { e.body = `{"secret":"` + string(own) + `"}` },
		func(*event) {},
	} {
		e := k.signed("door", "", "{}")
		where(&e)
		for _, key := range [][]byte{own, nil, []byte(nobodysSecret), []byte("door")} {
			e.headers.Set(HeaderSignature, fmt.Sprintf("sha256=%x", sum(key, "", e.headers.Get(HeaderTimestamp), []byte(e.body))))
			// A credential in the URL is refused by the gate, before.
			if status, _ := k.send(e); status != 401 && status != 400 {
				t.Errorf("%s signed with %.10q: %d", e.target, key, status)
			}
			none := e
			none.target = "/hooks/nothing"
			if status, _ := k.send(none); status != 401 {
				t.Errorf("a hook that does not exist, signed with %.10q: %d", key, status)
			}
		}
	}
	if _, err := Sign(make([]byte, MinSecret-1), "", k.now, nil); err == nil {
		t.Error("a short secret signs")
	}
	short := fmt.Sprintf("sha256=%x", sum([]byte("short"), "", "1800000000", nil))
	if _, err := Verify([]byte("short"), "", "1800000000", short, nil, k.now); err == nil {
		t.Error("a short secret verifies")
	}
}

func TestDeliveries(t *testing.T) {
	k := newKit(t, storetest.Open(t))
	for _, body := range []string{`{"ring":1}`, "text", "\xff"} {
		if status, detail := k.send(k.signed("door", "", body)); status != 202 {
			t.Fatalf("%d %s", status, detail)
		}
	}
	status, body := k.read("ann", "door", "?limit=2")
	if status != 200 || !strings.Contains(body, `"json":{"ring":1}`) || !strings.Contains(body, `"text":"text"`) || strings.Contains(body, "/w==") {
		t.Errorf("%d %s", status, body)
	}
	if status, body = k.read("ann", "door", "?after=2"); status != 200 || !strings.Contains(body, `"body_base64":"/w=="`) || strings.Contains(body, "text") {
		t.Errorf("%d %s", status, body)
	}
	_, missing := k.read("bob", "nothing", "")
	if status, body = k.read("bob", "door", ""); status != 404 || body != missing {
		t.Errorf("another household's: %d %s", status, body)
	}
	if status, _ = k.read("ann", "door", "?limit=0"); status < 400 {
		t.Errorf("limit 0: %d", status)
	}
	if bytes.Contains(k.log.Bytes(), []byte(secret)) {
		t.Error("the log has a secret")
	}
}
