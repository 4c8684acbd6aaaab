package acl

import (
	"fmt"
	"strings"
	"testing"

	"github.com/warrenmesh/warren/peer"
)

// TestNeverBindsWhatAMachineOffers: a machine must not get around a never by
// speaking from the address of a service that it offers.
func TestNeverBindsWhatAMachineOffers(t *testing.T) {
	eve := testPeer(300, "eve-pi", "eve", "guests")
	llm := testService(11, "llm", tcpPort(80))
	llm.Host = eve.ID
	w := &World{V4: testV4, V6: testV6, Peers: []peer.Peer{eve}, Services: append(builtinServices(), llm)}
	for _, who := range []string{"household:guests", "eve@", "peer:eve-pi", "autogroup:member"} {
		text := fmt.Sprintf(`{"households": {"guests": ["eve@"]},
			"acls": [{"action": "accept", "src": ["svc:llm"], "dst": ["svc:console:80"]}],
			"never": [{"src": [%q], "dst": ["svc:console:*"]}]}`, who)
		p, err := Parse([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Compile(p, w); err == nil || !strings.Contains(err.Error(), "never") {
			t.Errorf("never %s: the policy is accepted (%v)", who, err)
		}
		f, problems := Recompile(p, w)
		console := w.Services[3]
		if console.Name != "console" {
			t.Fatalf("the fourth service is %s", console.Name)
		}
		if e := f.Explain(llm.V4, console.V4, ProtoTCP, 80); e.Allowed || len(problems) == 0 {
			t.Errorf("never %s: allowed %v, problems %v", who, e.Allowed, problems)
		}
	}
}
