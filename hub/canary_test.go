package hub_test

import (
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/warrenmesh/warren/hub/hubtest"
	"github.com/warrenmesh/warren/services"
)

// TestT05_Canaries: whatever somebody asks without naming anything from next
// door, lists, exports, documents, refusals and headers, nothing from there is
// in the answer.
func TestT05_Canaries(t *testing.T) {
	s := newStreet(t)
	tables := s.Hub.Tables()
	ids := map[string]string{"household": s.id, "node": "kitchen", "user": "1", "hook": "nobody"}
	seen := 0
	for _, service := range slices.Sorted(maps.Keys(tables)) {
		for _, rt := range tables[service] {
			for _, as := range rt.Need.Any {
				if as == services.AsAdmin || rt.Need.Stream || rt.Method == http.MethodDelete {
					continue
				}
				for kind, id := range ids {
					if !strings.Contains(rt.Path, "{") && kind != "node" {
						continue // without parameters once is enough
					}
					r := hubtest.Request{Method: rt.Method, URL: url(service, rt, id), Header: s.as[as]}
					if rt.Method != http.MethodGet {
						r.Body = map[string]string{"nonsense": "1"}
					}
					a := s.ask(t, r)
					seen++
					all := a.Text
					for name, values := range a.Header {
						all += "\n" + name + ": " + strings.Join(values, ", ")
					}
					if strings.Contains(strings.ToLower(all), canary) || strings.Contains(all, s.there["household"]) {
						t.Errorf("%s %s as %v tells of next door: %d %.400s", rt.Method, r.URL, as, a.Status, all)
					}
				}
			}
		}
	}
	if seen < 100 {
		t.Errorf("only %d requests were made", seen)
	}
	t.Logf("%d answers", seen)
}
