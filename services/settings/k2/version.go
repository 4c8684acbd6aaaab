package k2

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"slices"
	"time"
)

// nodeConfig is the one type of Jarvis that carries a watermark of its own, in
// its value.
const (
	nodeConfig = "node_config"
	issuedAt   = "__issued_at"
)

// maxSeen is how many plain settings of one type a Mark remembers.
const maxSeen = 64

// Mark is what a receiver remembers of one type of setting, for as long as it
// lives and whatever becomes of K2. The zero Mark has seen nothing. It holds
// digests and no values, and is kept as JSON.
type Mark struct {
	// Version is the highest one taken; 0: none but plain ones.
	Version uint64 `json:"version"`
	// Issued is when that was sealed; for a plain node_config its __issued_at.
	Issued time.Time `json:"issued,omitzero"`
	// Digest is the SHA-256 of the value taken last.
	Digest []byte `json:"digest,omitempty"`
	// Seen are digests of plain values that were replaced, the newest last.
	Seen [][]byte `json:"seen,omitempty"`
}

// Advance says whether an opened setting may be taken. fresh is false for the
// one that is there already: sending it twice is no fault, and changes nothing.
// It fails with ErrRollback for a lower version, a plain value that was
// replaced before or a plain value where there have been versions, and with
// ErrConflict for the version that is there with another content. The Mark that
// is returned is to be stored together with the value.
func (m Mark) Advance(configType string, s Setting) (next Mark, fresh bool, err error) {
	sum := sha256.Sum256(s.Value)
	digest := sum[:]
	if s.Version == 0 {
		return m.advancePlain(configType, s.Value, digest)
	}
	switch {
	case s.Version < m.Version:
		return m, false, fmt.Errorf("version %d of %s, where %d is here: %w", s.Version, configType, m.Version, ErrRollback)
	case s.Version == m.Version && bytes.Equal(digest, m.Digest) && s.Issued.Equal(m.Issued):
		return m, false, nil
	case s.Version == m.Version:
		return m, false, fmt.Errorf("version %d of %s: %w", s.Version, configType, ErrConflict)
	}
	return Mark{Version: s.Version, Issued: s.Issued, Digest: digest}, true, nil
}

// advancePlain is for values without a version. What it can detect is a value
// that was here before, and a node_config that was issued earlier.
func (m Mark) advancePlain(configType string, value, digest []byte) (Mark, bool, error) {
	if m.Version > 0 {
		return m, false, fmt.Errorf("%s without a version, where version %d is here: %w", configType, m.Version, ErrRollback)
	}
	if bytes.Equal(digest, m.Digest) {
		return m, false, nil
	}
	if slices.ContainsFunc(m.Seen, func(old []byte) bool { return bytes.Equal(old, digest) }) {
		return m, false, fmt.Errorf("%s was replaced by a newer one: %w", configType, ErrRollback)
	}
	issued, err := watermark(configType, value)
	if err != nil {
		return m, false, err
	}
	if configType == nodeConfig && !issued.After(m.Issued) {
		return m, false, fmt.Errorf("a node_config of %s, where one of %s is here: %w",
			issued.Format(time.RFC3339), m.Issued.Format(time.RFC3339), ErrRollback)
	}
	next := Mark{Issued: issued, Digest: digest, Seen: slices.Clone(m.Seen)}
	if m.Digest != nil {
		next.Seen = append(next.Seen, m.Digest)
	}
	next.Seen = next.Seen[max(0, len(next.Seen)-maxSeen):]
	return next, true, nil
}

// watermark is __issued_at of a node_config, in seconds (with a fraction or
// without) or in the form of RFC 3339. One without it is malformed.
func watermark(configType string, value []byte) (time.Time, error) {
	if configType != nodeConfig {
		return time.Time{}, nil
	}
	bad := fmt.Errorf("a node_config without a version says when it was issued, in %s: %w", issuedAt, ErrMalformed)
	var fields map[string]json.RawMessage
	if json.Unmarshal(value, &fields) != nil {
		return time.Time{}, bad
	}
	var text string
	if json.Unmarshal(fields[issuedAt], &text) == nil {
		at, err := time.Parse(time.RFC3339Nano, text)
		if err != nil || at.Unix() <= 0 {
			return time.Time{}, bad
		}
		return at.UTC(), nil
	}
	var seconds float64
	if json.Unmarshal(fields[issuedAt], &seconds) != nil || seconds <= 0 || seconds > 1<<40 {
		return time.Time{}, bad
	}
	return time.UnixMicro(int64(seconds * 1e6)).UTC(), nil
}
