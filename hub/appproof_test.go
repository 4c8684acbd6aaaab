package hub_test

import (
	"net/http"
	"testing"

	"github.com/warrenmesh/warren/hub"
	"github.com/warrenmesh/warren/hub/control"
	"github.com/warrenmesh/warren/hub/hubtest"
	"github.com/warrenmesh/warren/services"
	"github.com/warrenmesh/warren/spoke"
)

// TestK04_Apps: how an app has to prove itself is the hub's to say: by its key,
// by the certificate of the machine it is bound to, by both or by either. A
// certificate of another machine is no proof, and neither is one that is not
// shown because the request comes without TLS.
func TestK04_Apps(t *testing.T) {
	const ping = "/internal/app-ping"
	for name, test := range map[string]struct {
		proof services.AppProof
		// By key over plain HTTP, by key over TLS, by certificate alone.
		plain, both, alone int
	}{
		"key":         {services.ByKey, 200, 200, 401},
		"certificate": {services.ByCertificate, 401, 200, 200},
		"both":        {services.ByBoth, 401, 200, 401},
		"either":      {services.ByEither, 200, 200, 200},
	} {
		t.Run(name, func(t *testing.T) {
			m := hubtest.New(t, func(_ *hub.InitConfig, c *hub.Config) { c.Apps = test.proof })
			m.Apply(open)
			box := m.Join("box", control.PeerSpec{})
			thief := m.Join("thief", control.PeerSpec{})
			var key control.KeyReply
			m.Command("app/add", control.AppSpec{ID: "center", Peer: "box", Services: []string{"auth"}}, &key)
			headers := []string{"X-Jarvis-App-Id: center", "X-Jarvis-App-Key: " + key.Key}
			ask := func(c *spoke.Client, base string, header []string) int {
				return hubtest.Call(t, c, hubtest.Request{Method: http.MethodGet, URL: base + ping, Header: header}).Status
			}
			const secure = "https://auth.warren.internal"
			if got := ask(box, hubtest.AuthURL, headers); got != test.plain {
				t.Errorf("by key, plain: %d, want %d", got, test.plain)
			}
			if got := ask(box, secure, headers); got != test.both {
				t.Errorf("by key and certificate: %d, want %d", got, test.both)
			}
			if got := ask(box, secure, nil); got != test.alone {
				t.Errorf("by certificate alone: %d, want %d", got, test.alone)
			}
			for base, header := range map[string][]string{hubtest.AuthURL: headers, secure: headers} {
				if got := ask(thief, base, header); got != 401 {
					t.Errorf("with the key on another machine, %s: %d, want 401", base, got)
				}
			}
			if got := ask(thief, secure, nil); got != 401 {
				t.Errorf("with another machine's certificate: %d, want 401", got)
			}
		})
	}
}
