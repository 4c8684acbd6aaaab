package e2e_test

import (
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/warrenmesh/warren/hub/control"
	"github.com/warrenmesh/warren/peer"
)

// TestE09_KilledWhileJoining kills the hub during joins, each time a little
// later. What it comes back with is one of two things: an invite that nobody has
// used and no peer, or a used one and its peer, who is on record. Either way the
// same spoke finishes with the same code.
func TestE09_KilledWhileJoining(t *testing.T) {
	m := newMesh(t)
	box := newMachine(t, place(), "sp")
	began := time.Now()
	box.must(t, m.admin("invite", "first"), spokeProgram(), "join", "-", "--dir", m.dir+"/first")
	whole := time.Since(began)
	t.Logf("a join takes %v", whole.Round(time.Millisecond))

	const rounds = 20
	before, after, done := 0, 0, 0
	for n := range rounds {
		name := fmt.Sprintf("box%d", n)
		code := m.admin("invite", name, "--owner", "ann")
		join := []string{spokeProgram(), "join", "-", "--dir", m.dir + "/" + name}
		joining := box.startWith(t, code, m.dir+"/"+name+".log", join...)
		select {
		case <-time.After(whole * time.Duration(n+1) / rounds):
		case <-joining.done:
		}
		m.killHub()
		joining.end(syscall.SIGKILL)
		finished := joining.cmd.ProcessState.Success()
		m.startHub()

		joined := m.invariants(t, name)
		again := box.run(t, code, join...)
		// The spoke may have been killed between storing its name and saying so.
		finished = finished || again.code != 0 && strings.Contains(again.errs, "has joined a mesh already")
		switch {
		case finished && !joined:
			t.Fatalf("%s was told that it has joined; the hub does not know it", name)
		case finished:
			done++
			continue
		case joined:
			after++
		default:
			before++
		}
		if again.code != 0 {
			t.Fatalf("%s cannot finish its join (peer on the hub: %v): %s", name, joined, again.errs)
		}
		if !m.invariants(t, name) {
			t.Fatalf("%s has joined; the hub does not know it", name)
		}
	}
	t.Logf("of %d joins the hub was killed before its decision in %d, between that and the answer in %d, later in %d",
		rounds, before, after, done)
	if before == 0 || before == rounds {
		t.Errorf("all hubs were killed on the same side of their decision: the test shows nothing")
	}
}

// invariants reports whether name is a peer, and fails the test if the hub holds
// anything but a whole join or none.
func (m *mesh) invariants(t *testing.T, name string) (joined bool) {
	t.Helper()
	var peers []control.PeerInfo
	m.adminJSON(&peers, "peers")
	invites := 0
	for _, p := range peers {
		switch {
		case p.Kind == peer.KindInvite && p.Name == name:
			invites++
		case p.Name == name:
			joined = true
		}
	}
	if joined == (invites == 1) {
		t.Fatalf("peer %v, %d unused invites, for %s:\n%s", joined, invites, name, m.admin("peers"))
	}
	var rows []control.AuditRow
	m.adminJSON(&rows, "audit")
	recorded := make(map[string]int)
	for _, row := range rows {
		if row.Action == "peer.join" {
			recorded[row.Target]++
		}
	}
	for _, p := range peers {
		if p.Kind == peer.KindSpoke && recorded[p.Name] != 1 {
			t.Fatalf("%s is a peer; the audit log has its join %d times", p.Name, recorded[p.Name])
		}
		delete(recorded, p.Name)
	}
	if len(recorded) != 0 {
		t.Fatalf("the audit log has joins of those who are no peers: %v", recorded)
	}
	if out := m.admin("audit", "verify"); !strings.Contains(out, "unbroken") {
		t.Fatalf("hub audit verify: %s", out)
	}
	return joined
}
