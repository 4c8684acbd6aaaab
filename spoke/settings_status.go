package spoke

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/warrenmesh/warren/services/settings/k2"
)

// SettingInfo is one setting, without its value.
type SettingInfo struct {
	Type string `json:"type"`
	// Version is 0 for a setting from a phone that gives none.
	Version uint64    `json:"version"`
	Issued  time.Time `json:"issued,omitzero"`
	Taken   time.Time `json:"taken,omitzero"`
}

// SettingsStatus is what this machine has as a node.
type SettingsStatus struct {
	Node string `json:"node,omitempty"`
	// Fingerprint is that of the key which K2 is sealed to: it is compared with
	// what the phone shows.
	Fingerprint string `json:"fingerprint,omitempty"`
	KID         string `json:"kid,omitempty"`
	// Check is compared with what the phone shows, unless Compared: then K2 came
	// by hand, or from one that did.
	Check    string        `json:"check,omitempty"`
	Compared bool          `json:"compared"`
	Heard    time.Time     `json:"heard,omitzero"` // when the hub last answered
	Trouble  string        `json:"trouble,omitempty"`
	Settings []SettingInfo `json:"settings"`
	// Stale says what is known to be missing, and since when.
	Stale []k2.Stale `json:"stale,omitempty"`
}

// list returns the settings that are here and everything that was seen.
func (s *Settings) list() ([]SettingInfo, map[string]k2.Mark, error) {
	names, err := s.vault.Names(keyMarks)
	if err != nil {
		return nil, nil, fmt.Errorf("reading settings: %w", err)
	}
	list, marks := []SettingInfo{}, make(map[string]k2.Mark, len(names))
	for _, name := range names {
		configType := strings.TrimPrefix(name, keyMarks)
		var mark k2.Mark
		if _, err := s.load(name, &mark); err != nil {
			return nil, nil, err
		}
		marks[configType] = mark
		var held heldSetting
		there, err := s.load(keyValues+configType, &held)
		if err != nil {
			return nil, nil, err
		}
		if there {
			list = append(list, SettingInfo{configType, mark.Version, mark.Issued, held.Taken})
		}
	}
	return list, marks, nil
}

// silence is how long the hub may say nothing before everything counts as
// stale since it was last heard.
const silence = 10 * time.Minute

// Status says what this machine has as a node. It works without a tunnel.
func (s *Settings) Status() (st SettingsStatus, err error) {
	id, err := s.identity()
	if err != nil && !errors.Is(err, ErrNoNode) {
		return st, err
	}
	st.Node = id.ID
	if raw, err := get(s.vault, keyX25519); err == nil && raw != nil {
		defer clear(raw)
		if n, err := k2.NodeKeyFrom(raw); err == nil {
			st.Fingerprint = n.Public().Fingerprint()
		}
	}
	k, compared, err := s.k2()
	if err != nil {
		return st, err
	}
	if st.KID = k.ID(); st.KID != "" {
		st.Check, st.Compared = k.Check(), compared
	}
	if _, err := s.load(keyHeard, &st.Heard); err != nil {
		return st, err
	}
	s.mu.Lock()
	st.Trouble = s.trouble
	s.mu.Unlock()
	list, marks, err := s.list()
	if err != nil {
		return st, err
	}
	st.Settings, st.Stale = list, s.stale(st.Heard, marks)
	return st, nil
}

// stale says what is known to be missing: what the manifest names, and
// everything once the hub is silent.
func (s *Settings) stale(heard time.Time, marks map[string]k2.Mark) []k2.Stale {
	var list []k2.Stale
	if !heard.IsZero() && s.now().Sub(heard) > silence {
		list = append(list, k2.Stale{Since: heard})
	}
	value, err := s.Get(k2.ManifestType)
	if err != nil {
		return list
	}
	m, err := k2.ParseManifest(value)
	if err != nil {
		return list
	}
	return append(list, m.Check(marks[k2.ManifestType].Issued, s.now(), marks)...)
}
