package k2

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"
)

// ManifestType is the type of setting that holds a Manifest.
const ManifestType = "settings:manifest"

// Manifest is what a phone says about all settings of a node: who carries them
// can hold one back, and this is how the node notices. It is sent as a setting
// in the versioned form, again and again.
type Manifest struct {
	// Versions are the newest ones, by type.
	Versions map[string]uint64 `json:"versions"`
	// Every is after how many seconds the next manifest comes at the latest; 0
	// promises none.
	Every int64 `json:"every"`
}

// ParseManifest reads the value of a setting of ManifestType.
func ParseManifest(value []byte) (Manifest, error) {
	var m Manifest
	if json.Unmarshal(value, &m) != nil || m.Every < 0 || m.Every > 366*24*3600 || len(m.Versions) > 10_000 {
		return Manifest{}, fmt.Errorf("reading manifest: %w", ErrMalformed)
	}
	return m, nil
}

// Stale says since when a setting is known to be out of date: another version
// was announced at that time, or the next manifest was due then.
type Stale struct {
	Type  string    `json:"type"` // "" means all
	Since time.Time `json:"since"`
	// Want is the version that was announced, 0 if that is not known.
	Want uint64 `json:"want,omitempty"`
}

// Check compares a manifest, sealed at issued, with what a node has, in the
// order of types. Nil means that nothing is known to be missing.
func (m Manifest) Check(issued, now time.Time, have map[string]Mark) []Stale {
	var list []Stale
	if due := issued.Add(time.Duration(m.Every) * time.Second); m.Every > 0 && now.After(due) {
		list = append(list, Stale{Since: due})
	}
	for _, t := range slices.Sorted(maps.Keys(m.Versions)) {
		if want := m.Versions[t]; want > have[t].Version {
			list = append(list, Stale{Type: t, Since: issued, Want: want})
		}
	}
	return list
}
