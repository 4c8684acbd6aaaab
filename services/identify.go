package services

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"slices"

	"github.com/warrenmesh/warren/peer"
)

// ActivePeer returns the peer that owns the source address of a connection, false
// unless there is one and it is active: not quarantined and of one of kinds.
// With no kinds, spokes and phones are meant and throw-away invites are not.
func ActivePeer(roster *peer.Roster, remote netip.Addr, kinds ...peer.Kind) (peer.Peer, bool) {
	// A zone is never part of an address inside the tunnel. A v4-mapped
	// address is not turned into the IPv4 one: it would be a second name for
	// somebody's identity.
	if !remote.IsValid() || remote.Zone() != "" {
		return peer.Peer{}, false
	}
	p, ok := roster.ByAddr(remote)
	if !ok || p.Quarantined {
		return peer.Peer{}, false
	}
	if len(kinds) == 0 {
		kinds = []peer.Kind{peer.KindSpoke, peer.KindPhone}
	}
	if !slices.Contains(kinds, p.Kind) {
		return peer.Peer{}, false
	}
	return p, true
}

// AddrOf returns the IP address in a, the zero address if there is none.
func AddrOf(a net.Addr) netip.Addr {
	var addr netip.Addr
	switch a := a.(type) {
	case *net.TCPAddr:
		addr = a.AddrPort().Addr()
	case *net.UDPAddr:
		addr = a.AddrPort().Addr()
	case nil:
		return netip.Addr{}
	default:
		ap, err := netip.ParseAddrPort(a.String())
		if err != nil {
			return netip.Addr{}
		}
		addr = ap.Addr()
	}
	// net.IP does not tell the 4-byte from the 16-byte form of an IPv4
	// address; a socket's family does, and an IPv6 packet from a v4-mapped
	// source is dropped long before (acl).
	return addr.Unmap()
}

// ConnContext is for http.Server.ConnContext: it notes who opened the
// connection. That alone grants nothing; Identify decides for each request.
func ConnContext(roster func() *peer.Roster, log *slog.Logger) func(context.Context, net.Conn) context.Context {
	log = orDiscard(log)
	return func(ctx context.Context, c net.Conn) context.Context {
		if roster == nil {
			return ctx
		}
		addr := AddrOf(c.RemoteAddr())
		p, ok := roster().ByAddr(addr)
		if !ok {
			log.Warn("connection from an address that no peer has", "address", addr)
			return ctx
		}
		return peer.NewContext(ctx, p)
	}
}

// Identify puts the calling peer into the request's context and answers 403
// when the source address belongs to no active peer (see ActivePeer for kinds).
//
// The roster is asked for every request, not once for a connection: a peer
// that was removed or quarantined while it kept a connection open is refused
// with its next request. If the address has gone to another peer since, the
// connection is still the old one's, and is refused as well.
func Identify(roster func() *peer.Roster, next http.Handler, kinds ...peer.Kind) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var p peer.Peer
		ok := false
		if ap, err := netip.ParseAddrPort(r.RemoteAddr); err == nil && roster != nil {
			p, ok = ActivePeer(roster(), ap.Addr(), kinds...)
		}
		if opener, known := peer.FromContext(r.Context()); known && opener.ID != p.ID {
			ok = false
		}
		if !ok {
			w.Header().Set("Connection", "close")
			Refuse(w, http.StatusForbidden, "This machine is not an active peer of the mesh; ask the admin to release or invite it.")
			return
		}
		next.ServeHTTP(w, r.WithContext(peer.NewContext(r.Context(), p)))
	})
}

func orDiscard(log *slog.Logger) *slog.Logger {
	if log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return log
}
