package oauth

import (
	"net/url"
	"strconv"
	"strings"
)

// maxRedirect is the length of a redirect URI in bytes.
const maxRedirect = 1024

// mayRedirect reports whether a client that registered these URIs may have its
// answer sent to want. They are compared byte by byte: there is one way to
// write an address, the registered one. The exception is the port of a
// loopback address, which a program on a person's machine cannot choose
// beforehand (RFC 8252, section 7.3); localhost is a name and no address
// (section 8.3), and gets no exception.
func mayRedirect(registered []string, want string) bool {
	if want == "" || len(want) > maxRedirect {
		return false
	}
	host, rest, isLoopback := loopback(want)
	for _, r := range registered {
		if r == want {
			return true
		}
		h, rr, ok := loopback(r)
		if isLoopback && ok && h == host && rr == rest {
			return true
		}
	}
	return false
}

// loopback splits a URI such as http://127.0.0.1:8080/done into the part before
// the port and the part behind it.
func loopback(uri string) (host, rest string, ok bool) {
	for _, host := range []string{"http://127.0.0.1", "http://[::1]"} {
		rest, ok := strings.CutPrefix(uri, host)
		if !ok {
			continue
		}
		if digits, after := cutDigits(strings.TrimPrefix(rest, ":")); rest != "" && rest[0] == ':' {
			port, err := strconv.ParseUint(digits, 10, 16)
			if err != nil || port == 0 || strconv.FormatUint(port, 10) != digits {
				return "", "", false
			}
			rest = after
		}
		// What follows must end the authority: not "127.0.0.1.evil.example",
		// not "127.0.0.1:80@evil.example".
		if rest == "" || rest[0] == '/' || rest[0] == '?' {
			return host, rest, true
		}
	}
	return "", "", false
}

func cutDigits(s string) (digits, after string) {
	i := 0
	for i < len(s) && '0' <= s[i] && s[i] <= '9' {
		i++
	}
	return s[:i], s[i:]
}

// answerAt adds parameters to a redirect URI, and the issuer: a client that
// talks to several servers tells their answers apart by it (RFC 9207).
func (s *Server) answerAt(redirect, state string, params ...string) string {
	q := url.Values{"iss": {s.cfg.Issuer}}
	if state != "" {
		q.Set("state", state)
	}
	for i := 0; i+1 < len(params); i += 2 {
		q.Set(params[i], params[i+1])
	}
	join := "?"
	if strings.Contains(redirect, "?") {
		join = "&"
	}
	return redirect + join + q.Encode()
}

// formTarget is a redirect URI as the form-action of a content security policy
// names it. Browsers hold a form to it even where the answer redirects.
func formTarget(redirect string) string {
	u, err := url.Parse(redirect)
	switch {
	case err != nil || u.Scheme == "":
		return ""
	case (u.Scheme == "https" || u.Scheme == "http") && !strings.Contains(u.Host, "["):
		return " " + u.Scheme + "://" + u.Host
	}
	// An IPv6 address cannot be written there, and a scheme of an app's own has
	// no host.
	return " " + u.Scheme + ":"
}
