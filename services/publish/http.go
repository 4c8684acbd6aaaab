package publish

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"github.com/warrenmesh/warren/peer"
	"github.com/warrenmesh/warren/services"
)

// proxy returns the handler of an HTTP target and its transport. The handler
// expects the peer in the request's context and refuses without.
func (p *Publisher) proxy() (http.Handler, *http.Transport) {
	var protocols http.Protocols
	protocols.SetHTTP1(true) // upgrades need it
	transport := &http.Transport{
		// No Proxy: the environment of the hub's process must not choose whom
		// the household's requests go to.
		DialContext:            func(ctx context.Context, _, _ string) (net.Conn, error) { return p.dial(ctx) },
		TLSClientConfig:        p.tlsConfig(),
		TLSHandshakeTimeout:    dialTimeout,
		DisableCompression:     true,
		MaxIdleConnsPerHost:    16,
		IdleConnTimeout:        30 * time.Second,
		MaxResponseHeaderBytes: 256 << 10,
		ExpectContinueTimeout:  time.Second,
		Protocols:              &protocols,
	}
	proxy := &httputil.ReverseProxy{
		Rewrite:        p.rewrite,
		Transport:      transport,
		FlushInterval:  -1,
		ErrorLog:       slog.NewLogLogger(p.log.Handler(), slog.LevelDebug),
		ErrorHandler:   p.unreachable,
		ModifyResponse: p.respond,
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, ok := peer.FromContext(r.Context()); !ok {
			services.Refuse(w, http.StatusForbidden, "This machine is not an active peer of the mesh.")
			return
		}
		// CONNECT would ask the target to dial for the caller; TRACE shows a
		// page the headers it must not see.
		if r.Method == http.MethodConnect || r.Method == http.MethodTrace {
			services.Refuse(w, http.StatusMethodNotAllowed, "This method is not passed on.")
			return
		}
		onlyWebSocket(r.Header)
		proxy.ServeHTTP(w, r)
	}), transport
}

// onlyWebSocket removes the wish for any other upgrade. After an upgrade the
// bytes pass unread: with h2c the caller could send further requests over the
// same connection, with whatever identity headers it likes (h2c smuggling).
func onlyWebSocket(h http.Header) {
	if u := h.Values("Upgrade"); len(u) != 1 || !strings.EqualFold(u[0], "websocket") {
		h.Del("Upgrade")
	}
	h.Del("Http2-Settings")
}

func (p *Publisher) tlsConfig() *tls.Config {
	c := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: p.cfg.Target.Host, RootCAs: p.cfg.RootCAs}
	if a, err := netip.ParseAddr(p.cfg.Target.Host); err == nil && a.IsLoopback() && p.cfg.RootCAs == nil {
		c.InsecureSkipVerify = true // see Config.RootCAs
	}
	return c
}

// rewrite makes the request that the target sees.
func (p *Publisher) rewrite(pr *httputil.ProxyRequest) {
	pr.Out.URL.Scheme = p.cfg.Target.Scheme
	pr.Out.URL.Host = p.cfg.Target.addr()
	pr.Out.URL.RawQuery = pr.In.URL.RawQuery // as it was: the target judges it
	pr.Out.Host = pr.In.Host                 // it was on the allow-list

	for name := range pr.Out.Header {
		if speaksForCaller(name) {
			delete(pr.Out.Header, name)
		}
	}
	// Trailers come after the headers and merge with them in many servers: no
	// request needs any.
	pr.Out.Trailer = nil
	pr.Out.Header.Del("Trailer")

	caller, _ := peer.FromContext(pr.In.Context())
	set := func(name, value string) {
		if value != "" {
			pr.Out.Header.Set(name, value)
		}
	}
	set("X-Warren-Peer", caller.Name)
	if len(caller.Tags) == 0 {
		set("X-Warren-User", caller.Owner)
	}
	set("X-Warren-Tags", strings.Join(caller.Tags, ","))
	set("X-Warren-Household", caller.Household)
	set("X-Forwarded-Host", pr.In.Host)
	set("X-Forwarded-Proto", "http")
	if pr.In.TLS != nil {
		set("X-Forwarded-Proto", "https")
	}
}

// speaksForCaller reports whether a target might take a header of this name
// for the proxy's word on who is calling or what was asked for. CGI and its
// heirs (WSGI, PHP, Rack) make no difference between "-", "_" and other signs
// in a name, so neither does this.
func speaksForCaller(name string) bool {
	plain := strings.Map(func(r rune) rune {
		switch {
		case r >= 'A' && r <= 'Z':
			return r + 'a' - 'A'
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9':
			return r
		}
		return '-'
	}, name)
	for _, prefix := range []string{"x-warren", "x-forwarded", "x-original-", "x-rewrite-", "x-auth-request-", "x-authentik-", "x-webauth-",
		"x-remote-", "remote-", "tailscale-", "cf-access-", "x-goog-authenticated-", "x-ms-client-principal", "x-envoy-", "x-ssl-", "ssl-client-"} {
		if strings.HasPrefix(plain, prefix) {
			return true
		}
	}
	switch plain {
	case "forwarded", "forwarded-for", "x-real-ip", "x-client-ip", "client-ip", "true-client-ip", "x-cluster-client-ip", "cf-connecting-ip", "fastly-client-ip",
		"x-host", "x-user", "x-forwarder-for", "proxy", "x-authenticated-user", "x-proxy-user", "via":
		return true
	}
	return false
}

// respond mends redirects that name the target by an address only the hub can
// use.
func (p *Publisher) respond(res *http.Response) error {
	u, err := url.Parse(res.Header.Get("Location"))
	if err != nil || u.Host == "" {
		return nil
	}
	if strings.EqualFold(u.Host, p.cfg.Target.addr()) || strings.EqualFold(u.Host, p.cfg.Target.Host) && u.Port() == "" {
		u.Scheme, u.Host = "http", res.Request.Host
		if res.Request.Header.Get("X-Forwarded-Proto") == "https" {
			u.Scheme = "https"
		}
		res.Header.Set("Location", u.String())
	}
	return nil
}

// unreachable answers when the target did not.
func (p *Publisher) unreachable(w http.ResponseWriter, r *http.Request, err error) {
	if r.Context().Err() != nil || errors.Is(err, context.Canceled) {
		// The caller has gone; there is nobody to tell.
		w.WriteHeader(http.StatusBadGateway)
		return
	}
	reason := why(err)
	p.log.Warn("published target does not answer", "target", p.cfg.Target.String(), "error", err)
	services.Refuse(w, http.StatusBadGateway, "The service \""+p.cfg.Name+"\" is published, but its target on the hub's side is down: "+
		reason+". Start it there, then try again.")
}
