package audit

import (
	"errors"
	"iter"
	"slices"
	"strings"
	"testing"
	"time"
)

// chain returns n good entries.
func chain(t testing.TB, n int, actor string) []Entry {
	t.Helper()
	var head Checkpoint
	var entries []Entry
	for i := range n {
		e, err := Next(head, time.Unix(1_700_000_000, int64(i)), Event{Actor: actor, Action: "peer.add", Target: "kitchen", Detail: map[string]string{"b": "2", "a": "1"}})
		if err != nil {
			t.Fatal(err)
		}
		head = After(e)
		entries = append(entries, e)
	}
	return entries
}

func seq(entries []Entry) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		for _, e := range entries {
			if !yield(e, nil) {
				return
			}
		}
	}
}

// TestL02_FirstBadEntry tampers with a chain in every way and asks for the
// place of the first entry that is wrong.
func TestL02_FirstBadEntry(t *testing.T) {
	good := chain(t, 9, "local:1000")
	head := After(good[8])
	if n, err := Verify(seq(good), head, After(good[3]), Checkpoint{}); n != 9 || err != nil {
		t.Fatalf("a good chain: %d, %v", n, err)
	}
	if n, err := Verify(seq(nil), Checkpoint{}); n != 0 || err != nil {
		t.Fatalf("an empty chain: %d, %v", n, err)
	}
	for _, c := range []struct {
		name   string
		tamper func([]Entry) []Entry
		bad    uint64
	}{
		{"actor", func(e []Entry) []Entry { e[4].Actor = "local:0"; return e }, 5},
		{"action", func(e []Entry) []Entry { e[0].Action = "peer.rm"; return e }, 1},
		{"detail", func(e []Entry) []Entry { e[4].Detail = map[string]string{"a": "1", "b": "3"}; return e }, 5},
		{"time", func(e []Entry) []Entry { e[4].Time = e[4].Time.Add(1); return e }, 5},
		{"hash", func(e []Entry) []Entry { e[4].Hash[0] ^= 1; return e }, 5},
		{"prev", func(e []Entry) []Entry { e[4].Prev[31] ^= 1; return e }, 5},
		{"delete first", func(e []Entry) []Entry { return e[1:] }, 1},
		{"delete middle", func(e []Entry) []Entry { return slices.Delete(e, 4, 5) }, 5},
		{"delete and renumber", func(e []Entry) []Entry {
			e = slices.Delete(e, 4, 5)
			for i := range e {
				e[i].Index = uint64(i + 1)
			}
			return e
		}, 5},
		{"swap", func(e []Entry) []Entry { e[3], e[4] = e[4], e[3]; return e }, 4},
		{"duplicate", func(e []Entry) []Entry { return slices.Insert(e, 5, e[4]) }, 6},
		{"insert", func(e []Entry) []Entry { return slices.Insert(e, 5, chain(t, 6, "x")[5]) }, 6},
		{"truncate", func(e []Entry) []Entry { return e[:6] }, 7},
		{"truncate all", func(e []Entry) []Entry { return nil }, 1},
		{"make anew", func(e []Entry) []Entry { return chain(t, 9, "somebody") }, 9},
		{"fork", func(e []Entry) []Entry {
			at := After(e[5])
			for i := 6; i < 9; i++ {
				e[i], _ = Next(at, e[i].Time, Event{Actor: "hub", Action: "other"})
				at = After(e[i])
			}
			return e
		}, 9},
	} {
		t.Run(c.name, func(t *testing.T) {
			n, err := Verify(seq(c.tamper(slices.Clone(good))), head)
			var bad *BadEntry
			if !errors.As(err, &bad) || bad.Index != c.bad || n >= c.bad {
				t.Errorf("%d good, %v; want entry %d", n, err, c.bad)
			}
		})
	}
}

func TestVerifyPassesReadErrorsOn(t *testing.T) {
	broken := errors.New("disk")
	_, err := Verify(func(yield func(Entry, error) bool) { yield(Entry{}, broken) })
	if !errors.Is(err, broken) {
		t.Error(err)
	}
}

func TestCanonical(t *testing.T) {
	a, err := Event{Actor: "hub", Action: "a\x00\xff\n<b>", Detail: map[string]string{"k\xff": "v", "a": ""}}.Canonical()
	if err != nil {
		t.Fatal(err)
	}
	if want := `{"actor":"hub","action":"a\u0000�\n<b>","detail":{"a":"","k�":"v"}}`; string(a) != want {
		t.Errorf("got %s, want %s", a, want)
	}
	for _, e := range []Event{{}, {Actor: "hub"}, {Action: "x"}, {Actor: "hub", Action: strings.Repeat("x", MaxEvent+1)}} {
		if _, err := e.Canonical(); !errors.Is(err, ErrEvent) || len(err.Error()) > 200 {
			t.Errorf("an event that cannot be recorded: %v", err)
		}
	}
}

func TestCheckpointText(t *testing.T) {
	c := After(chain(t, 3, "hub")[2])
	if got, err := ParseCheckpoint(c.String()); err != nil || got != c {
		t.Errorf("ParseCheckpoint(%s) = %v, %v", c, got, err)
	}
}

// FuzzParseCheckpoint: what parses is written back to the same text.
func FuzzParseCheckpoint(f *testing.F) {
	f.Add(Checkpoint{}.String())
	f.Add("warren-audit:1:AAAA")
	f.Add("warren-audit:01:" + strings.Repeat("A", 43))
	f.Add("")
	f.Fuzz(func(t *testing.T, s string) {
		c, err := ParseCheckpoint(s)
		if err != nil && c != (Checkpoint{}) {
			t.Error("something was returned with an error")
		}
		if err == nil && c.String() != s {
			t.Errorf("%q became %q", s, c)
		}
	})
}
