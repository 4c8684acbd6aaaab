package e2e_test

import (
	"strings"
	"testing"
	"time"
)

// TestMeshE24_EditEndsADownload edits the policy during a download with curl,
// from the hub's machine and from a spoke's, and measures from the moment at
// which `hub acl apply` is back to the moment at which curl has ended.
func TestMeshE24_EditEndsADownload(t *testing.T) {
	m := newMesh(t)
	s := m.join("box", "--owner", "bob")
	notes := servePages(t, s.listen(t, "127.0.0.1:7000"))
	s.up("--serve", "notes=127.0.0.1:7000")
	until(t, "the hub lists notes", func() bool { return strings.Contains(m.admin("services"), "notes.") })
	open := strings.Replace(first, `"svc:page:80"`, `"svc:page:80", "svc:notes:7000"`, 1)
	p := m.phone("ann-phone", "--owner", "ann")

	for _, flow := range []struct {
		from, url, rule string
		at              *pages
	}{
		{"Hub", "http://page.warren.internal/big", `"svc:page:80"`, m.pages},
		{"Spoke", "http://notes.warren.internal:7000/big", `"svc:notes:7000"`, notes},
	} {
		// More than once: who hears of the edit first, the spoke by itself or by
		// a refusal, differs from time to time.
		for _, family := range []string{"-4", "-6", "-4", "-6", "-4", "-6"} {
			t.Run(flow.from+family, func(t *testing.T) {
				m.apply(open)
				// The spoke hears of what opens a moment later.
				until(t, "the page comes", func() bool { return p.curl(family, strings.TrimSuffix(flow.url, "big")).code == 0 })
				curl := p.start(t, m.dir+"/curl.log", "curl", "-sS", "--max-time", "60", family, "-o", "/dev/null", flow.url)
				until(t, "the download runs", func() bool { return flow.at.open.Load() == 1 })
				// Taken away: the rule's only other destination stays.
				said := m.apply(strings.NewReplacer(flow.rule+", ", "", ", "+flow.rule, "").Replace(open))
				back := time.Now()
				select {
				case <-curl.done:
				case <-time.After(patience):
					t.Fatal("curl goes on after the edit")
				}
				took := time.Since(back)
				if code := curl.cmd.ProcessState.ExitCode(); code != 56 && code != 18 {
					t.Errorf("curl's exit code is %d, want 56 (reset)\n%s", code, curl.said())
				}
				if took > 5*time.Second {
					t.Errorf("curl ended %v after the edit", took)
				}
				served := until(t, "the server's side ends", func() bool { return flow.at.open.Load() == 0 })
				t.Logf("curl ended %v after apply returned, the server's side %v later; hub: %s",
					took.Round(100*time.Microsecond), served.Round(time.Millisecond), said)
				if r := p.curl(family, flow.url); r.code != 7 {
					t.Errorf("a new connection: exit code %d, want 7 (refused)", r.code)
				}
			})
		}
	}
}
