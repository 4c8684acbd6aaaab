package oauth

import (
	"net/url"
	"testing"
)

// TestJ13_LoopbackEndsWhereItSays: whatever is registered, the free port never
// makes a loopback address of what only begins like one.
func TestJ13_LoopbackEndsWhereItSays(t *testing.T) {
	for _, c := range []struct {
		registered, want string
		ok               bool
	}{
		{"http://127.0.0.1/done", "http://127.0.0.1:8080/done", true},
		{"http://127.0.0.1:1/done", "http://127.0.0.1/done", true},
		{"http://127.0.0.1", "http://127.0.0.1:8080", true},
		{"http://127.0.0.1?a=b", "http://127.0.0.1:8080?a=b", true},
		{"http://[::1]/done", "http://[::1]:8080/done", true},
		{"http://[::1]/done", "http://127.0.0.1:8080/done", false},
		{"http://127.0.0.1/done", "http://127.0.0.1:8080/done/", false},
		{"http://127.0.0.1.evil.example/done", "http://127.0.0.1:80.evil.example/done", false},
		{"http://127.0.0.1@evil.example/done", "http://127.0.0.1:80@evil.example/done", false},
		{"http://127.0.0.1\\done", "http://127.0.0.1:80\\done", false},
		{"https://127.0.0.1/done", "https://127.0.0.1:8080/done", false},
		{"http://localhost/done", "http://localhost:8080/done", false},
		{"https://app.example.org/cb", "https://app.example.org:443/cb", false},
		{"", "", false},
	} {
		if got := mayRedirect([]string{c.registered}, c.want); got != c.ok {
			t.Errorf("%q for %q: %v", c.want, c.registered, got)
		}
	}
}

// FuzzMayRedirect has net/url, as browsers' authors read addresses, say where an
// accepted address leads: to the host and path that were registered.
func FuzzMayRedirect(f *testing.F) {
	registered := []string{"http://127.0.0.1/done", "http://[::1]:8080/cb", "https://app.example.org/cb?a=b", "org.example.app:/done"}
	for _, s := range registered {
		f.Add(s)
	}
	for _, s := range []string{"http://127.0.0.1:80/done", "http://127.0.0.1:80@evil.example/done", "http://[::1]:9/cb", "https://app.example.org:443/cb?a=b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, want string) {
		if !mayRedirect(registered, want) {
			return
		}
		u, err := url.Parse(want)
		if err != nil {
			t.Fatalf("%q was accepted and is no address: %v", want, err)
		}
		for _, r := range registered {
			v, err := url.Parse(r)
			if err == nil && u.Scheme == v.Scheme && u.Hostname() == v.Hostname() && u.Path == v.Path && u.RawQuery == v.RawQuery && u.User == nil && u.Fragment == "" {
				return
			}
		}
		t.Fatalf("%q was accepted and leads elsewhere", want)
	})
}
