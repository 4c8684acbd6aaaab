package acl

import (
	"net/netip"
	"testing"

	"github.com/warrenmesh/warren/peer"
)

// TestCompileWithoutServices: two machines and nothing else are a world too.
func TestCompileWithoutServices(t *testing.T) {
	p, err := Parse([]byte(`{"acls": [{"action": "accept", "src": ["*"], "dst": ["*:*"]}]}`))
	if err != nil {
		t.Fatal(err)
	}
	w := &World{V4: netip.MustParsePrefix("10.77.0.0/16"), V6: netip.MustParsePrefix("fd00::/64")}
	for i, name := range []string{"a", "b"} {
		w.Peers = append(w.Peers, peer.Peer{ID: peer.ID(name), Name: name, Kind: peer.KindSpoke, PublicKey: peer.PublicKey{byte(i + 1)},
			V4: netip.AddrFrom4([4]byte{10, 77, 1, byte(i)}), V6: netip.MustParseAddr([]string{"fd00::100", "fd00::101"}[i])})
	}
	f, err := Compile(p, w)
	if err != nil {
		t.Fatal(err)
	}
	if e := f.Explain(w.Peers[0].V4, w.Peers[1].V4, ProtoTCP, 22); !e.Allowed {
		t.Errorf("a does not reach b: %s", e.Reason)
	}
}
