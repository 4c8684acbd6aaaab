package spoke

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"regexp"
	"strings"
	gosync "sync"
	"time"

	"github.com/warrenmesh/warren/services/settings/k2"
	"github.com/warrenmesh/warren/spoke/vault"
)

// What the vault holds of settings. All of it is forgotten when the machine
// leaves the mesh.
const (
	settingsPrefix = "settings/"
	keyNode        = settingsPrefix + "node"  // nodeIdentity
	keyX25519      = settingsPrefix + "key"   // 32 bytes, made here
	keyK2          = settingsPrefix + "k2"    // heldKey
	keyHeard       = settingsPrefix + "heard" // when the hub last answered, RFC 3339
	keyValues      = settingsPrefix + "value/"
	keyMarks       = settingsPrefix + "mark/"
)

// ErrNoSetting: this machine was never sent such a setting.
var ErrNoSetting = errors.New("this machine has no such setting")

// ErrNoNode: this machine is no node of a household yet.
var ErrNoNode = errors.New("this machine is no node of a household yet")

// nodeIdentity is what this machine proves itself to the command service with.
type nodeIdentity struct {
	ID  string `json:"id"`
	Key string `json:"key"`
}

// heldKey is K2 in the vault.
type heldKey struct {
	Node    string    `json:"node"`
	KID     string    `json:"kid"`
	Secret  []byte    `json:"secret"`
	Created time.Time `json:"created"`
	// Compared says that it did not come through the hub, or is the proven
	// successor of one that did not.
	Compared bool `json:"compared"`
}

// heldSetting is a setting in the vault.
type heldSetting struct {
	Value []byte    `json:"value"`
	Taken time.Time `json:"taken"`
}

// Settings are what people have sent to this machine as a node: sealed with K2,
// opened here, kept in the vault. All methods may be called from any goroutine.
type Settings struct {
	vault *vault.Vault
	http  *http.Client
	base  func() string // of the command service
	log   *slog.Logger
	now   func() time.Time

	change gosync.Mutex // held while something in the vault is read and changed
	noted  time.Time    // when the hub was last written down to have answered

	mu      gosync.Mutex // guards what follows
	kick    chan struct{}
	trouble string
}

func newSettings(v *vault.Vault, client *http.Client, base func() string, log *slog.Logger) *Settings {
	return &Settings{vault: v, http: client, base: base, log: log, now: time.Now, kick: make(chan struct{}, 1)}
}

// load reads a value of the vault as JSON; there is false if there is none.
func (s *Settings) load(name string, into any) (there bool, err error) {
	raw, err := get(s.vault, name)
	if err != nil || raw == nil {
		return false, err
	}
	defer clear(raw)
	if err := json.Unmarshal(raw, into); err != nil {
		return false, fmt.Errorf("reading %s: the vault holds something else there", name)
	}
	return true, nil
}

// store writes several values at once.
func (s *Settings) store(values map[string]any) error {
	changes := make(map[string][]byte, len(values))
	for name, v := range values {
		raw, err := json.Marshal(v)
		if err != nil {
			return fmt.Errorf("storing %s: %w", name, err)
		}
		changes[name] = raw
	}
	if err := s.vault.Apply(changes); err != nil {
		return fmt.Errorf("storing settings: %w", err)
	}
	return nil
}

// identity is ErrNoNode if there is none.
func (s *Settings) identity() (id nodeIdentity, err error) {
	there, err := s.load(keyNode, &id)
	if err == nil && !there {
		err = ErrNoNode
	}
	return id, err
}

var nodeID = regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}$`)

// SetNode makes this machine a node: its id, and the key that the household's
// admin was shown for it.
func (s *Settings) SetNode(id, key string) error {
	s.change.Lock()
	defer s.change.Unlock()
	key = strings.TrimPrefix(strings.TrimSpace(key), id+":")
	if !nodeID.MatchString(id) {
		return errors.New("a node's id is 1 to 64 of letters, digits and . _ -")
	}
	if len(key) < 16 || len(key) > 256 || strings.ContainsFunc(key, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return errors.New("this is no node key; copy it as it was shown")
	}
	if k, _, err := s.k2(); err != nil {
		return err
	} else if !k.IsZero() {
		var held heldKey
		if _, err := s.load(keyK2, &held); err != nil {
			return err
		}
		if held.Node != id {
			return fmt.Errorf("the settings key here is the node %s's; forget it first: spoke settings key --forget", held.Node)
		}
	}
	if _, err := s.nodeKey(); err != nil {
		return err
	}
	if err := s.store(map[string]any{keyNode: nodeIdentity{id, key}}); err != nil {
		return err
	}
	s.wake()
	return nil
}

// nodeKey is this machine's X25519 key, made the first time.
func (s *Settings) nodeKey() (k2.NodeKey, error) {
	raw, err := get(s.vault, keyX25519)
	if err != nil {
		return k2.NodeKey{}, err
	}
	if raw != nil {
		defer clear(raw)
		return k2.NodeKeyFrom(raw)
	}
	n, err := k2.NewNodeKey()
	if err != nil {
		return n, err
	}
	fresh := n.Reveal()
	defer clear(fresh)
	if err := s.vault.Put(keyX25519, fresh); err != nil {
		return k2.NodeKey{}, fmt.Errorf("storing node key: %w", err)
	}
	return n, nil
}

// k2 is the zero Key if there is none.
func (s *Settings) k2() (k k2.Key, compared bool, err error) {
	var held heldKey
	there, err := s.load(keyK2, &held)
	if err != nil || !there {
		return k, false, err
	}
	defer clear(held.Secret)
	k, err = k2.KeyFrom(held.KID, held.Secret, held.Created)
	return k, held.Compared, err
}

func (s *Settings) setK2(node string, k k2.Key, compared bool) error {
	secret := k.Reveal()
	defer clear(secret)
	return s.store(map[string]any{keyK2: heldKey{node, k.ID(), secret, k.Created(), compared}})
}

// ImportKey takes K2 from a backup: the text of its QR code. The versions that
// were seen stay: whoever has an old picture cannot bring old settings back.
func (s *Settings) ImportKey(text, passphrase string) (kid string, err error) {
	s.change.Lock()
	defer s.change.Unlock()
	node, k, err := k2.Restore(strings.TrimSpace(text), passphrase)
	if err != nil {
		return "", err
	}
	id, err := s.identity()
	switch {
	case errors.Is(err, ErrNoNode):
	case err != nil:
		return "", err
	case id.ID != node:
		return "", fmt.Errorf("this backup is for the node %s, and this machine is %s", node, id.ID)
	}
	if err := s.setK2(node, k, true); err != nil {
		return "", err
	}
	s.wake()
	return k.ID(), nil
}

// ForgetKey forgets K2 and the values that came with it. The versions stay.
func (s *Settings) ForgetKey() error {
	s.change.Lock()
	defer s.change.Unlock()
	return s.forgetValues(keyK2)
}

// forgetValues removes all values, and further names.
func (s *Settings) forgetValues(more ...string) error {
	names, err := s.vault.Names(keyValues)
	if err != nil {
		return fmt.Errorf("reading settings: %w", err)
	}
	changes := make(map[string][]byte)
	for _, name := range append(names, more...) {
		changes[name] = nil
	}
	return s.vault.Apply(changes)
}

// takeKey opens a K2 that came through the hub.
func (s *Settings) takeKey(node string, sealed k2.SealedKey) error {
	s.change.Lock()
	defer s.change.Unlock()
	own, err := s.nodeKey()
	if err != nil {
		return err
	}
	before, compared, err := s.k2()
	if err != nil {
		return err
	}
	k, err := own.OpenKey(node, sealed, before)
	if err != nil || k.Equal(before) {
		return err
	}
	return s.setK2(node, k, compared && !before.IsZero())
}

// take opens a setting and keeps it, if it is newer than what is here.
func (s *Settings) take(node, configType string, sealed k2.Sealed) error {
	s.change.Lock()
	defer s.change.Unlock()
	if configType == k2.Snapshot {
		return fmt.Errorf("a snapshot is no setting: %w", k2.ErrMalformed)
	}
	k, _, err := s.k2()
	if err != nil {
		return err
	}
	opened, err := k.Open(node, configType, sealed)
	if err != nil {
		return err
	}
	var mark k2.Mark
	if _, err := s.load(keyMarks+configType, &mark); err != nil {
		return err
	}
	next, fresh, err := mark.Advance(configType, opened)
	if err != nil || !fresh {
		return err
	}
	if configType == k2.ManifestType {
		if _, err := k2.ParseManifest(opened.Value); err != nil {
			return err
		}
	}
	// Value and mark in one change: after a crash both are there, or none.
	return s.store(map[string]any{keyMarks + configType: next, keyValues + configType: heldSetting{opened.Value, s.now()}})
}

// Get returns the value of a setting, ErrNoSetting if there is none.
func (s *Settings) Get(configType string) ([]byte, error) {
	if !k2.ValidType(configType) {
		return nil, ErrNoSetting
	}
	var held heldSetting
	there, err := s.load(keyValues+configType, &held)
	if err == nil && !there {
		err = ErrNoSetting
	}
	return held.Value, err
}

// wake makes the loop look at what this machine is.
func (s *Settings) wake() {
	select {
	case s.kick <- struct{}{}:
	default:
	}
}
