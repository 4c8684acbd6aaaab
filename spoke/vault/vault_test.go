package vault

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

// eachForm runs test on every form that this build has. A build with cgo has
// both, so the suite covers the other build's form too.
func eachForm(t *testing.T, test func(t *testing.T, m maker)) {
	t.Helper()
	for _, m := range makers() {
		t.Run(strings.TrimPrefix(m.file, "vault."), func(t *testing.T) { test(t, m) })
	}
}

func mustCreate(t *testing.T, dir string, m maker) *Vault {
	t.Helper()
	v, err := create(dir, m)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = v.Close() })
	return v
}

func mustClose(t *testing.T, v *Vault) {
	t.Helper()
	if err := v.Close(); err != nil {
		t.Fatal(err)
	}
}

func mustGet(t *testing.T, v *Vault, name, want string) {
	t.Helper()
	got, err := v.Get(name)
	if err != nil || string(got) != want {
		t.Fatalf("Get(%s) = %.40q, %v; want %.40q", name, got, err, want)
	}
}

func mustApply(t *testing.T, v *Vault, changes map[string][]byte) {
	t.Helper()
	if err := v.Apply(changes); err != nil {
		t.Fatal(err)
	}
}

func TestValuesSurvive(t *testing.T) {
	eachForm(t, func(t *testing.T, m maker) {
		dir := filepath.Join(t.TempDir(), "state")
		v := mustCreate(t, dir, m)
		big := strings.Repeat("\x00\xff", MaxValue/2)
		mustApply(t, v, map[string][]byte{"key": []byte("k"), "empty": {}, "serve/llm": []byte("127.0.0.1:8080"), "big": []byte(big)})
		mustApply(t, v, map[string][]byte{"key": []byte("k2"), "big": nil, "never": nil})
		mustClose(t, v)
		mustClose(t, v) // twice is fine
		if _, err := v.Get("key"); !errors.Is(err, ErrClosed) {
			t.Errorf("Get after Close: %v", err)
		}
		v, err := Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer v.Close()
		mustGet(t, v, "key", "k2")
		mustGet(t, v, "empty", "")
		if _, err := v.Get("big"); !errors.Is(err, ErrNotFound) {
			t.Errorf("a deleted value: %v", err)
		}
		if names, err := v.Names("serve/"); err != nil || !slices.Equal(names, []string{"serve/llm"}) {
			t.Errorf("Names = %v, %v", names, err)
		}
	})
}

func TestNothingReadableOnDisk(t *testing.T) {
	eachForm(t, func(t *testing.T, m maker) {
		dir := t.TempDir()
		v := mustCreate(t, dir, m)
		const canary = "canary-7b1f-private-key"
		mustApply(t, v, map[string][]byte{"identity-canary": []byte(canary), "old": []byte(canary)})
		mustApply(t, v, map[string][]byte{"old": nil})
		k, err := os.ReadFile(filepath.Join(dir, keyFile))
		if err != nil {
			t.Fatal(err)
		}
		check := func() {
			t.Helper()
			_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, failed error) error {
				if failed != nil {
					return failed
				}
				info, err := d.Info()
				if err != nil || d.IsDir() {
					return err
				}
				if info.Mode().Perm() != 0o600 {
					t.Errorf("%s has mode %v", path, info.Mode())
				}
				b, err := os.ReadFile(path)
				if err != nil {
					t.Fatal(err)
				}
				if bytes.Contains(b, []byte("canary")) || bytes.Contains(b, []byte("SQLite format")) {
					t.Errorf("%s is readable", path)
				}
				if d.Name() != keyFile && bytes.Contains(b, bytes.TrimSpace(k)) {
					t.Errorf("%s holds the key", path)
				}
				return nil
			})
		}
		check()
		mustClose(t, v)
		check()
	})
}

func TestLockedAgainstASecond(t *testing.T) {
	eachForm(t, func(t *testing.T, m maker) {
		dir := t.TempDir()
		v := mustCreate(t, dir, m)
		if _, err := Open(dir); !errors.Is(err, ErrLocked) {
			t.Errorf("a second Open: %v", err)
		}
		if _, err := Create(dir); !errors.Is(err, ErrLocked) {
			t.Errorf("Create over an open vault: %v", err)
		}
		mustClose(t, v)
		if _, err := Create(dir); !errors.Is(err, ErrExists) {
			t.Errorf("Create over a vault: %v", err)
		}
		v, err := Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		mustClose(t, v)
	})
}

// TestR03_ThreeErrors damages a vault in each way and asks for the right error,
// and for files that are byte for byte what they were.
func TestR03_ThreeErrors(t *testing.T) {
	eachForm(t, func(t *testing.T, m maker) {
		for _, c := range []struct {
			name string
			do   func(t *testing.T, dir, path string)
			want error
		}{
			{"wrong key", func(t *testing.T, dir, _ string) { write(t, filepath.Join(dir, keyFile), strings.Repeat("5a", 32)) }, ErrWrongKey},
			{"key missing", func(t *testing.T, dir, _ string) { _ = os.Remove(filepath.Join(dir, keyFile)) }, ErrKey},
			{"key short", func(t *testing.T, dir, _ string) { write(t, filepath.Join(dir, keyFile), strings.Repeat("5a", 31)) }, ErrKey},
			{"key not hexadecimal", func(t *testing.T, dir, _ string) { write(t, filepath.Join(dir, keyFile), strings.Repeat("zz", 32)) }, ErrKey},
			{"key zero", func(t *testing.T, dir, _ string) { write(t, filepath.Join(dir, keyFile), strings.Repeat("00", 32)) }, ErrKey},
			{"key readable", func(t *testing.T, dir, _ string) { _ = os.Chmod(filepath.Join(dir, keyFile), 0o640) }, ErrKey},
			{"plaintext database", func(t *testing.T, _, path string) { write(t, path, "SQLite format 3\x00"+strings.Repeat("x", 8176)) }, nil},
			{"plaintext JSON", func(t *testing.T, _, path string) { write(t, path, `{"key":"a2V5"}`+strings.Repeat(" ", 100)) }, nil},
			{"empty file", func(t *testing.T, _, path string) { write(t, path, "") }, ErrCorrupt},
			{"zeros", func(t *testing.T, _, path string) { write(t, path, strings.Repeat("\x00", 8192)) }, ErrCorrupt},
			{"a bit in the middle", func(t *testing.T, _, path string) { flip(t, path, -1) }, ErrCorrupt},
			{"a bit at the end", func(t *testing.T, _, path string) { flip(t, path, -2) }, ErrCorrupt},
			{"a bit of the check", func(t *testing.T, _, path string) { flip(t, path, 0) }, ErrCorrupt},
			{"truncated", func(t *testing.T, _, path string) { truncate(t, path) }, ErrCorrupt},
			{"vault missing", func(t *testing.T, _, path string) { _ = os.Remove(path) }, ErrNotFound},
		} {
			t.Run(c.name, func(t *testing.T) {
				dir := t.TempDir()
				v := mustCreate(t, dir, m)
				mustApply(t, v, map[string][]byte{"identity": bytes.Repeat([]byte("i"), 20_000)})
				mustClose(t, v)
				path := filepath.Join(dir, m.file)
				c.do(t, dir, path)
				if c.want == nil {
					c.want = ErrPlaintext
					if strings.Contains(c.name, "JSON") == (m.file == dbFile) {
						c.want = nil // the other form's plaintext: any refusal will do
					}
				}
				before := snapshot(t, dir)
				_, err := Open(dir)
				if err == nil || (c.want != nil && !errors.Is(err, c.want)) {
					t.Errorf("Open: %v, want %v", err, c.want)
				}
				if after := snapshot(t, dir); after != before {
					t.Errorf("a refused Open changed the files")
				}
			})
		}
	})
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// flip changes one bit: at an offset, or -1 the middle, -2 the end.
func flip(t *testing.T, path string, at int) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	switch {
	case at == -1:
		at = len(b) / 2
	case at == -2:
		at = len(b) - 1
	case bytes.HasPrefix(b, []byte(sealedMagic)):
		// The check decides between a wrong key and damage; here the key is right.
		at = len(sealedMagic) + checkSize + nonceSize + 1
	}
	b[at] ^= 0x10
	write(t, path, string(b))
}

func truncate(t *testing.T, path string) {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, info.Size()/2/4096*4096); err != nil {
		t.Fatal(err)
	}
}

func snapshot(t *testing.T, dir string) string {
	t.Helper()
	var all strings.Builder
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		b, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&all, "%s %x\n", e.Name(), b)
	}
	return all.String()
}

func TestNewerVaultIsRefused(t *testing.T) {
	dir := t.TempDir()
	v := mustCreate(t, dir, sealedMaker())
	mustClose(t, v)
	path := filepath.Join(dir, sealedFile)
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	b[len(sealedFamily)] = '2'
	write(t, path, string(b))
	if _, err := Open(dir); !errors.Is(err, ErrNewer) {
		t.Errorf("Open: %v, want ErrNewer", err)
	}
}

func TestBadNamesAndValues(t *testing.T) {
	eachForm(t, func(t *testing.T, m maker) {
		v := mustCreate(t, t.TempDir(), m)
		for _, name := range []string{"", " ", "a b", "a\x00b", "a\n", "ä", strings.Repeat("n", MaxName+1), strings.Repeat("n", 1<<20)} {
			if err := v.Put(name, nil); !errors.Is(err, ErrInvalid) || len(err.Error()) > 300 {
				t.Errorf("Put(%.20q): %.400v", name, err)
			}
			if _, err := v.Get(name); !errors.Is(err, ErrNotFound) {
				t.Errorf("Get(%.20q): %v", name, err)
			}
		}
		literal := `x'; DROP TABLE vault; --%_"`
		if err := v.Put(strings.ReplaceAll(literal, " ", ""), []byte(literal)); err != nil {
			t.Fatal(err)
		}
		mustGet(t, v, strings.ReplaceAll(literal, " ", ""), literal)
		if err := v.Put("big", make([]byte, MaxValue+1)); !errors.Is(err, ErrInvalid) {
			t.Errorf("a value over the limit: %v", err)
		}
		// One bad change in a set, and none of it happens.
		err := v.Apply(map[string][]byte{"good": {1}, "bad name": {1}})
		if _, gone := v.Get("good"); err == nil || !errors.Is(gone, ErrNotFound) {
			t.Errorf("half of a refused change was made: %v", err)
		}
	})
}

func TestKeyPrintsNothing(t *testing.T) {
	k := key{new([keySize]byte)}
	k.b[0] = 0x77
	for _, text := range []string{fmt.Sprint(k), fmt.Sprintf("%#v %+v %x %d %s", k, k, k, k, k)} {
		if strings.Contains(text, "77") || strings.Contains(text, "119") {
			t.Errorf("the key is printed: %s", text)
		}
	}
}

func TestManyAtOnce(t *testing.T) {
	eachForm(t, func(t *testing.T, m maker) {
		v := mustCreate(t, t.TempDir(), m)
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				name := fmt.Sprint("n", i)
				for j := range 5 {
					if err := v.Put(name, []byte(fmt.Sprint(j))); err != nil {
						t.Error(err)
					}
					if _, err := v.Get(name); err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		for i := range 8 {
			mustGet(t, v, fmt.Sprint("n", i), "4")
		}
	})
}

// TestWithoutCgo runs this suite once more in a build without cgo.
func TestWithoutCgo(t *testing.T) {
	if len(makers()) == 1 {
		return // this is that build
	}
	c := exec.CommandContext(t.Context(), "go", "test", "-count=1", ".")
	c.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
	if out, err := c.CombinedOutput(); err != nil {
		t.Errorf("go test without cgo: %v\n%s", err, out)
	}
}

// TestWithoutCgoSaysSo opens a vault of the other form in a build that cannot.
func TestWithoutCgoSaysSo(t *testing.T) {
	if len(makers()) > 1 {
		return // TestWithoutCgo runs it where it matters
	}
	dir := t.TempDir()
	mustClose(t, mustCreate(t, dir, sealedMaker()))
	if err := os.Rename(filepath.Join(dir, sealedFile), filepath.Join(dir, dbFile)); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir); err == nil || !strings.Contains(err.Error(), "SQLCipher") {
		t.Errorf("Open: %v", err)
	}
}
