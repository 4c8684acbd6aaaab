package console

import (
	"cmp"
	"fmt"
	"html/template"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/warrenmesh/warren/peer"
)

// fresh is how old a handshake may be for its peer to count as here: WireGuard
// makes a new one every two minutes while there is traffic, and a silent peer's
// keepalive makes it once in three.
const fresh = 3 * time.Minute

// view is a Page, sorted and cut down to what the template shows.
type view struct {
	Page
	Here, Known                      int // peers, invites not counted
	MorePeers, MoreServices, MoreRef int
}

func newView(p Page) view {
	v := view{Page: p}
	v.Peers = slices.Clone(p.Peers)
	for _, q := range v.Peers {
		if q.Kind == peer.KindInvite {
			continue
		}
		v.Known++
		if isHere(q, p.Now) {
			v.Here++
		}
	}
	slices.SortFunc(v.Peers, func(a, b Peer) int {
		return cmp.Or(order(a, p)-order(b, p), strings.Compare(a.Name, b.Name))
	})
	v.Peers, v.MorePeers = cut(v.Peers)
	v.Services, v.MoreServices = cut(p.Services)
	v.Refused, v.MoreRef = cut(p.Refused)
	v.Problems, _ = cut(p.Problems)
	return v
}

// order puts the caller first, then who is here, then the rest, invites last.
func order(q Peer, p Page) int {
	switch {
	case q.ID == p.You.ID && q.ID != "":
		return 0
	case q.Kind == peer.KindInvite:
		return 3
	case isHere(q, p.Now):
		return 1
	}
	return 2
}

func isHere(q Peer, now time.Time) bool {
	return !q.Handshake.IsZero() && now.Sub(q.Handshake) < fresh && !q.Quarantined
}

func cut[T any](s []T) ([]T, int) {
	if len(s) <= maxRows {
		return s, 0
	}
	return s[:maxRows], len(s) - maxRows
}

func functions() template.FuncMap {
	return template.FuncMap{"show": show, "ago": ago, "lasted": lasted, "bytes": size, "state": state, "isInvite": isInvite, "web": web, "join": join, "count": count}
}

// show makes text that came from elsewhere harmless to the eye, too: html/template
// keeps it from being markup, but not from running backwards over the rest of
// the line, hiding characters, or filling the screen.
func show(s any) string {
	const most = 120
	var b strings.Builder
	n := 0
	for _, r := range fmt.Sprint(s) {
		if n++; n > most {
			b.WriteString("…")
			break
		}
		if r == unicode.ReplacementChar || !unicode.IsPrint(r) || unicode.Is(unicode.Bidi_Control, r) || unicode.Is(unicode.Mn, r) || unicode.Is(unicode.Me, r) {
			fmt.Fprintf(&b, "\\u%04x", r)
			continue
		}
		b.WriteRune(r)
	}
	return b.String()
}

func join(parts []string) string { return strings.Join(parts, ", ") }

// ago says how long before now t was, in one unit: nobody needs the seconds of
// yesterday.
func ago(now, t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	d := now.Sub(t)
	if d < 5*time.Second {
		return "now" // a clock that is a little ahead is no news either
	}
	return lasted(d) + " ago"
}

func lasted(d time.Duration) string {
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%d s", max(0, int(d.Seconds())))
	case d < time.Hour:
		return fmt.Sprintf("%d min", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h", int(d.Hours()))
	}
	return fmt.Sprintf("%d days", int(d.Hours()/24))
}

// size writes bytes the way people read them.
func size(n uint64) string {
	if n < 1000 {
		return fmt.Sprintf("%d B", n)
	}
	f, unit := float64(n), 0
	for f >= 999.5 && unit < 5 {
		f /= 1000
		unit++
	}
	format := "%.0f %s"
	if f < 9.95 {
		format = "%.1f %s"
	}
	return fmt.Sprintf(format, f, []string{"B", "kB", "MB", "GB", "TB", "PB"}[unit])
}

func count(n uint64) string {
	if n == 1 {
		return "once"
	}
	return fmt.Sprintf("%d times", n)
}

// state is one word for the dot beside a peer's name.
func state(now time.Time, q Peer) string {
	switch {
	case q.Quarantined:
		return "quarantined"
	case q.Kind == peer.KindInvite:
		return "invited"
	case isHere(q, now):
		return "here"
	}
	return "away"
}

func isInvite(q Peer) bool { return q.Kind == peer.KindInvite }

// web is the address of a service that a browser can open, "" if none can.
func web(s Service) string {
	for _, p := range s.Ports {
		if p == "tcp:80" {
			return "http://" + s.FQDN + "/"
		}
	}
	return ""
}
