package hub_test

import (
	"io"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/warrenmesh/warren/hub"
	"github.com/warrenmesh/warren/hub/control"
	"github.com/warrenmesh/warren/hub/hubtest"
)

// BenchmarkRequest is one request over the tunnel and a connection that is kept:
// for the machine alone, for a person, for an app, and to a service that asks
// for nothing. What the gate and the credential cost is the difference.
func BenchmarkRequest(b *testing.B) {
	ahead := new(atomic.Int64)
	m := hubtest.New(b, func(_ *hub.InitConfig, c *hub.Config) {
		c.Now = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	})
	m.Apply(open)
	m.Person("ann", m.Household("home", ""), "member")
	laptop := m.Join("laptop", control.PeerSpec{Owner: "ann"})
	var key control.KeyReply
	m.Command("app/add", control.AppSpec{ID: "center", Peer: "laptop", Services: []string{"auth"}}, &key)
	client := laptop.HTTPClient()
	b.Cleanup(client.CloseIdleConnections)
	for _, test := range []struct {
		name, url string
		header    func() []string
	}{
		{"console", "http://console.warren.internal/", func() []string { return nil }},
		{"machine", hubtest.AuthURL + "/health", func() []string { return nil }},
		{"person", hubtest.AuthURL + "/auth/me", func() []string {
			return []string{"Authorization", "Bearer " + hubtest.SignIn(b, laptop, "ann").Access}
		}},
		{"app", hubtest.AuthURL + "/internal/app-ping", func() []string {
			return []string{"X-Jarvis-App-Id", "center", "X-Jarvis-App-Key", key.Key}
		}},
	} {
		b.Run(test.name, func(b *testing.B) {
			var header []string
			var took time.Duration
			n := 0
			for b.Loop() {
				if n++; n%100 == 1 {
					// Neither the rate limit nor the end of a token is what is measured.
					ahead.Add(int64(10 * time.Minute))
					header = test.header()
				}
				begun := time.Now()
				req, err := http.NewRequestWithContext(b.Context(), http.MethodGet, test.url, nil)
				if err != nil {
					b.Fatal(err)
				}
				for i := 0; i < len(header); i += 2 {
					req.Header.Set(header[i], header[i+1])
				}
				res, err := client.Do(req)
				if err != nil {
					b.Fatal(err)
				}
				_, _ = io.Copy(io.Discard, res.Body)
				res.Body.Close()
				took += time.Since(begun)
				if res.StatusCode != http.StatusOK {
					b.Fatalf("%s", res.Status)
				}
			}
			b.ReportMetric(float64(took.Nanoseconds())/float64(n), "ns/request")
		})
	}
}
