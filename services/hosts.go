package services

import (
	"net"
	"net/http"
	"net/netip"
	"strings"
)

// AllowHosts answers 421 to requests for any host but the given names and
// addresses. A web page that points its own name at a tunnel address (DNS
// rebinding) makes the browser of a peer call us under that name, and is
// turned away here whatever the browser is allowed to reach.
//
// Names are compared exactly, but for case; a port must be the one that was
// connected to. An absolute-form request line is refused: it and the Host
// header could differ, and Go no longer shows the latter. An empty list
// refuses everything.
//
// Loopback names pass with any port: they are what a browser says when the
// peer forwards a port of its own machine to the service, and no foreign page
// can make it say so.
func AllowHosts(hosts []string, next http.Handler) http.Handler {
	allowed := make(map[string]bool, len(hosts))
	for _, h := range hosts {
		allowed[strings.ToLower(strings.Trim(h, "[]"))] = true
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if len(allowed) == 0 || !hostAllowed(allowed, r) {
			w.Header().Set("Connection", "close")
			Refuse(w, http.StatusMisdirectedRequest, "Nothing is served under this host name; use the name that the mesh gives the service.")
			return
		}
		next.ServeHTTP(w, r)
	})
}

func hostAllowed(allowed map[string]bool, r *http.Request) bool {
	if r.URL.Host != "" || r.URL.Scheme != "" || r.Host == "" {
		return false
	}
	host, port := strings.ToLower(r.Host), ""
	if h, p, err := net.SplitHostPort(host); err == nil {
		if p == "" {
			return false
		}
		host, port = h, p
	} else if strings.HasPrefix(host, "[") && strings.HasSuffix(host, "]") {
		host = host[1 : len(host)-1]
	} else if strings.Contains(host, ":") {
		return false
	}
	if isLoopback(host) {
		return true
	}
	if !allowed[host] {
		return false
	}
	return port == "" || port == localPort(r)
}

func isLoopback(host string) bool {
	if host == "localhost" {
		return true
	}
	addr, err := netip.ParseAddr(host)
	// Exactly these two spellings: "127.1" does not parse, "::ffff:127.0.0.1" is none of them.
	return err == nil && (addr == netip.AddrFrom4([4]byte{127, 0, 0, 1}) || addr == netip.IPv6Loopback())
}

func localPort(r *http.Request) string {
	addr, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	if !ok {
		return ""
	}
	_, port, err := net.SplitHostPort(addr.String())
	if err != nil {
		return ""
	}
	return port
}

// Refuse answers with one plain sentence and the headers that keep a browser
// from making anything else of it.
func Refuse(w http.ResponseWriter, status int, sentence string) {
	h := w.Header()
	h.Del("Content-Length")
	h.Set("Content-Type", "text/plain; charset=utf-8")
	SecurityHeaders(h)
	w.WriteHeader(status)
	_, _ = w.Write([]byte(sentence + "\n"))
}

// SecurityHeaders sets what every answer of Warren's own carries, errors
// included: nothing may be loaded, framed, sniffed, embedded or kept.
func SecurityHeaders(h http.Header) {
	set := func(k, v string) {
		if h.Get(k) == "" {
			h.Set(k, v)
		}
	}
	set("Content-Security-Policy", "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
	set("X-Content-Type-Options", "nosniff")
	set("X-Frame-Options", "DENY")
	set("Referrer-Policy", "no-referrer")
	set("Cross-Origin-Opener-Policy", "same-origin")
	set("Cross-Origin-Resource-Policy", "same-origin")
	set("Permissions-Policy", "camera=(), microphone=(), geolocation=()")
	set("Cache-Control", "no-store")
}
