package main

import (
	"bytes"
	"strings"
	"testing"

	"github.com/warrenmesh/warren/spoke"
)

// TestPrintsNoEscapes: what a hub says, be it a sentence or the line of a status,
// does not move the cursor of whoever looks at this machine.
func TestPrintsNoEscapes(t *testing.T) {
	const evil = "503 \x1b[2J\x1b]0;title\anext\nthis machine is fine"
	var b bytes.Buffer
	if err := printSettings(&b, &spoke.SettingsStatus{Trouble: evil}); err != nil {
		t.Fatal(err)
	}
	if err := printStatus(&b, &spoke.Status{Trouble: evil, Connected: true}); err != nil {
		t.Fatal(err)
	}
	if strings.Count(b.String(), "503 ") != 2 {
		t.Fatalf("the trouble is not told:\n%q", b.String())
	}
	if strings.ContainsAny(b.String(), "\x1b\a") || strings.Contains(b.String(), "\nthis machine is fine") {
		t.Errorf("printed as it came:\n%q", b.String())
	}
}
