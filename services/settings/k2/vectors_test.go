package k2

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"testing"
)

// The vectors are text files with one failure each, for every implementation of
// the form, not only this one. testdata/README says how to read them.
var writeVectors = flag.Bool("write-vectors", false, "make the files in testdata/vectors anew")

// vector is one file: lines "name: value".
type vector map[string]string

// released is everything that came out, whatever else was returned.
func (v vector) run(t *testing.T) (got string, released []byte) {
	switch v["form"] {
	case "setting":
		k := v.key(t)
		var m Mark
		for n, text := range strings.Split(v["blobs"], " ") {
			part := strings.Split(text, "|")
			s, err := k.Open(v["node"], v["type"], Sealed{part[0], part[1], part[2]})
			if err == nil {
				m, _, err = m.Advance(v["type"], s)
			}
			if err != nil {
				return class(err), released
			}
			if n == strings.Count(v["blobs"], " ") {
				released = append(released, s.Value...)
			}
		}
		return "success", released
	case "key":
		raw, err := hex.DecodeString(v["node-key"])
		if err != nil {
			t.Fatal(err)
		}
		n, err := NodeKeyFrom(raw)
		if err != nil {
			t.Fatal(err)
		}
		var s SealedKey
		if err := json.Unmarshal([]byte(v["sealed"]), &s); err != nil {
			t.Fatal(err)
		}
		k, err := n.OpenKey(v["node"], s, v.key(t))
		if err != nil {
			return class(err), k.secret[:len(k.kid)] // of a zero Key: nothing
		}
		return "success", k.Reveal()
	case "backup":
		node, k, err := Restore(v["text"], v["passphrase"])
		if err != nil {
			return class(err), append([]byte(node), k.secret[:len(k.kid)]...)
		}
		return "success", k.Reveal()
	}
	t.Fatalf("form %q", v["form"])
	return "", nil
}

// key is the K2 that the receiver has, the zero Key if the vector has none.
func (v vector) key(t *testing.T) Key {
	if v["kid"] == "" {
		return Key{}
	}
	raw, err := hex.DecodeString(v["k2"])
	if err != nil {
		t.Fatal(err)
	}
	k, err := KeyFrom(v["kid"], raw, then)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func readVector(t *testing.T, path string) vector {
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	v := vector{}
	for line := range strings.Lines(string(b)) {
		name, value, ok := strings.Cut(strings.TrimSuffix(line, "\n"), ": ")
		if !ok {
			t.Fatalf("%s: line %q", path, line)
		}
		v[name] = value
	}
	return v
}

func TestVectors(t *testing.T) {
	dir := filepath.Join("testdata", "vectors")
	if *writeVectors {
		for name, v := range makeVectors(t) {
			writeVector(t, filepath.Join(dir, name), v)
		}
	}
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(files) < 40 {
		t.Fatalf("%d vectors, %v", len(files), err)
	}
	for _, path := range files {
		t.Run(filepath.Base(path), func(t *testing.T) {
			v := readVector(t, path)
			got, released := v.run(t)
			if got != v["expect"] {
				t.Errorf("%s, not %s (%s)", got, v["expect"], v["comment"])
			}
			if sum := sha256.Sum256(released); hex.EncodeToString(sum[:]) != v["payload"] {
				t.Errorf("released %d bytes with another hash", len(released))
			}
		})
	}
}

func writeVector(t *testing.T, path string, v vector) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		t.Fatal(err)
	}
	names := make([]string, 0, len(v))
	for name := range v {
		names = append(names, name)
	}
	sort.Strings(names)
	var b bytes.Buffer
	for _, name := range names {
		fmt.Fprintf(&b, "%s: %s\n", name, v[name])
	}
	if err := os.WriteFile(path, b.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
}
