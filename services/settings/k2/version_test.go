package k2

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
	"testing"
	"time"
)

// TestC03_Rollback serves old and changed settings to a receiver that remembers.
func TestC03_Rollback(t *testing.T) {
	k := mustKey(t, "k2-202611-abcdef", 1)
	sealed := func(v uint64, value string) Sealed {
		return mustSeal(t, k, "kitchen", "x", Setting{v, then.Add(time.Duration(v) * time.Second), []byte(value)})
	}
	old, now, twin := sealed(1, `"old"`), sealed(3, `"now"`), sealed(3, `"other"`)
	again := mustSeal(t, k, "kitchen", "x", Setting{3, then.Add(time.Hour), []byte(`"now"`)})
	plain := mustSeal(t, k, "kitchen", "x", Setting{Value: []byte(`"plain"`)})
	var m Mark
	for _, step := range []struct {
		what  string
		s     Sealed
		fresh bool
		err   error
	}{
		{"a plain one before any version", plain, true, nil},
		{"it again", plain, false, nil},
		{"version 1", old, true, nil},
		{"version 1 again", old, false, nil},
		{"version 3", now, true, nil},
		{"version 3 again", now, false, nil},
		{"version 1 after 3", old, false, ErrRollback},
		{"version 3 with another content", twin, false, ErrConflict},
		{"version 3 issued at another time", again, false, ErrConflict},
		{"a plain one after versions", plain, false, ErrRollback},
		{"version 4", sealed(4, `"next"`), true, nil},
		{"version 3 after 4", now, false, ErrRollback},
	} {
		s, err := k.Open("kitchen", "x", step.s)
		if err != nil {
			t.Fatal(err)
		}
		// What is remembered goes through the vault.
		text, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		m = Mark{}
		if err := json.Unmarshal(text, &m); err != nil {
			t.Fatal(err)
		}
		next, fresh, err := m.Advance("x", s)
		if fresh != step.fresh || !errors.Is(err, step.err) {
			t.Fatalf("%s: fresh %v, %v", step.what, fresh, err)
		}
		if !fresh && (next.Version != m.Version || !bytes.Equal(next.Digest, m.Digest)) {
			t.Fatalf("%s: what was refused is remembered", step.what)
		}
		m = next
	}
}

// TestC03_PlainRollback does what can be done for values without a version.
func TestC03_PlainRollback(t *testing.T) {
	take := func(m *Mark, configType, value string) error {
		next, _, err := m.Advance(configType, Setting{Value: []byte(value)})
		*m = next
		return err
	}
	var m Mark
	for n := range maxSeen {
		if err := take(&m, "auth:x", fmt.Sprint(n)); err != nil {
			t.Fatal(err)
		}
	}
	for n := range maxSeen - 1 {
		if err := take(&m, "auth:x", fmt.Sprint(n)); !errors.Is(err, ErrRollback) {
			t.Fatalf("value %d came back: %v", n, err)
		}
	}
	m = Mark{}
	for _, step := range []struct {
		value string
		err   error
	}{
		{`{"a":1}`, ErrMalformed}, {`{"__issued_at":null}`, ErrMalformed}, {`{"__issued_at":"soon"}`, ErrMalformed}, {`{"__issued_at":-1}`, ErrMalformed}, {`[]`, ErrMalformed},
		{`{"__issued_at":1700000000.5}`, nil}, {`{"__issued_at":1700000000.25,"a":1}`, ErrRollback},
		{`{"__issued_at":"2026-11-01T12:00:00Z"}`, nil}, {`{"__issued_at":1700000001}`, ErrRollback},
		{`{"__issued_at":"2026-11-01T12:00:00Z","a":2}`, ErrRollback},
		{`{"__issued_at":1e300}`, ErrMalformed},
	} {
		if err := take(&m, nodeConfig, step.value); !errors.Is(err, step.err) {
			t.Errorf("%s: %v", step.value, err)
		}
	}
}

// fixed is a random generator whose state was copied.
type fixed struct{}

func (fixed) Read(b []byte) (int, error) { return copy(b, bytes.Repeat([]byte{7}, len(b))), nil }

// TestC04_NoncesAreDistinct seals 10^6 times, and with a generator that repeats
// itself.
func TestC04_NoncesAreDistinct(t *testing.T) {
	k := mustKey(t, "k2-202611-abcdef", 1)
	const lanes, each = 4, 250_000
	seen := make([]map[string]struct{}, lanes)
	var wg sync.WaitGroup
	for lane := range lanes {
		seen[lane] = make(map[string]struct{}, each)
		wg.Go(func() {
			for range each {
				s, err := k.Seal("kitchen", "x", Setting{Value: []byte("1")})
				if err != nil {
					t.Error(err)
					return
				}
				seen[lane][s.Nonce] = struct{}{}
			}
		})
	}
	wg.Wait()
	for _, lane := range seen[1:] {
		for nonce := range lane {
			seen[0][nonce] = struct{}{}
		}
	}
	if len(seen[0]) != lanes*each {
		t.Errorf("%d nonces in %d seals", len(seen[0]), lanes*each)
	}
}

func TestC04_ClonedGenerator(t *testing.T) {
	k := mustKey(t, "k2-202611-abcdef", 1)
	nonces := make(map[string]string)
	for _, v := range []uint64{0, 1, 2} {
		for _, value := range []string{`1`, `2`} {
			for _, to := range []string{"kitchen:a", "kitchen:b", "bedroom:a"} {
				what := fmt.Sprint(v, value, to)
				s, err := k.seal(fixed{}, to[:7], to[8:], Setting{v, then, []byte(value)})
				if err != nil {
					t.Fatal(err)
				}
				if other, ok := nonces[s.Nonce]; ok {
					t.Errorf("%s and %s share a nonce", what, other)
				}
				nonces[s.Nonce] = what
				if twin, err := k.seal(fixed{}, to[:7], to[8:], Setting{v, then, []byte(value)}); err != nil || twin != s {
					t.Errorf("%s: one message became two under one nonce", what)
				}
			}
		}
	}
	other := mustKey(t, "k2-202611-abcdef", 2)
	s, err := other.seal(fixed{}, "kitchen", "a", Setting{Value: []byte(`1`)})
	if err != nil || nonces[s.Nonce] != "" {
		t.Errorf("two keys share a nonce (%v)", err)
	}
	if _, err := k.seal(bytes.NewReader(nil), "kitchen", "a", Setting{}); !errors.Is(err, io.EOF) {
		t.Errorf("sealing without randomness: %v", err)
	}
}

// FuzzOpen holds two laws: what was sealed opens to the same, and nothing else
// opens, under any text.
func FuzzOpen(f *testing.F) {
	k := mustKey(f, "k2-202611-abcdef", 1)
	// The same in each of the fuzzer's processes.
	whole, err := k.seal(fixed{}, "kitchen", "x", Setting{3, then, []byte(`{"a":[1,"<b>"]}`)})
	if err != nil {
		f.Fatal(err)
	}
	f.Add("kitchen", "x", whole.Ciphertext, whole.Nonce, whole.Tag)
	f.Add("kitchen", "auth:x", "", "AAAAAAAAAAAAAAAA", "AAAAAAAAAAAAAAAAAAAAAA")
	f.Fuzz(func(t *testing.T, node, configType, ciphertext, nonce, tag string) {
		s := Sealed{ciphertext, nonce, tag}
		got, err := k.Open(node, configType, s)
		if (err == nil) != (s == whole && node == "kitchen" && configType == "x") {
			t.Fatalf("opened: %v", err)
		}
		if err != nil && (got.Value != nil || got.Version != 0) {
			t.Fatalf("released %+v", got)
		}
		for _, v := range []uint64{0, uint64(len(ciphertext)) + 1} {
			sealed, err := k.Seal(node, configType, Setting{v, then, []byte(ciphertext)})
			if err != nil {
				continue
			}
			back, err := k.Open(node, configType, sealed)
			if err != nil || back.Version != v {
				t.Fatalf("sealed, and does not open: %v", err)
			}
			if v == 0 && !bytes.Equal(back.Value, []byte(ciphertext)) {
				t.Fatal("opened to another value")
			}
		}
	})
}
