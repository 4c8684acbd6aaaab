package spoke

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/warrenmesh/warren/services/settings/k2"
)

// The hub is asked by one long poll; what it says waits is fetched, taken or
// refused, and acknowledged.
const (
	eventsWait  = 50 // seconds
	settingsMin = 2 * time.Second
	settingsMax = time.Minute
	// eventsPace is the least time between two polls of which the first told
	// nothing, workPace if it told something: a hub that answers at once, for
	// whatever reason, does not keep this machine busy.
	eventsPace = 500 * time.Millisecond
	workPace   = 50 * time.Millisecond
)

// maxAnswer bounds what the command service may answer, in bytes: two hundred
// settings may wait, but they are small.
const maxAnswer = 32 << 20

// run follows the command service until ctx ends. A machine that is no node
// waits until it is made one.
func (s *Settings) run(ctx context.Context) error {
	wait := settingsMin
	for ctx.Err() == nil {
		err := s.follow(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case err == nil, errors.Is(err, ErrNoNode):
			s.say("")
			wait = settingsMin
			if err != nil && !s.rest(ctx, 0) {
				return nil
			}
			continue
		}
		s.say(err.Error())
		s.log.Debug("following settings", "err", err)
		if !s.rest(ctx, wait/2+rand.N(wait/2)) {
			return nil
		}
		wait = min(2*wait, settingsMax)
	}
	return nil
}

// rest waits for a while, or until something here has changed; for that alone
// if d is 0.
func (s *Settings) rest(ctx context.Context, d time.Duration) bool {
	var over <-chan time.Time
	if d > 0 {
		timer := time.NewTimer(d)
		defer timer.Stop()
		over = timer.C
	}
	select {
	case <-over:
	case <-s.kick:
	case <-ctx.Done():
		return false
	}
	return true
}

func (s *Settings) say(trouble string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.trouble = trouble
}

// follow publishes this machine's key and does what waits, until something
// fails.
func (s *Settings) follow(ctx context.Context) error {
	s.change.Lock()
	id, err := s.identity()
	if err != nil {
		s.change.Unlock()
		return err
	}
	own, err := s.nodeKey()
	s.change.Unlock()
	if err != nil {
		return err
	}
	n := &nodeCalls{s, id}
	if err := n.call(ctx, http.MethodPut, "/key", map[string]string{"public_key": own.Public().String()}, nil); err != nil {
		return err
	}
	cursor := ""
	for {
		var waits struct {
			Events []settingsEvent `json:"events"`
			Cursor string          `json:"cursor"`
		}
		asked := time.Now()
		if err := n.call(ctx, http.MethodGet, fmt.Sprintf("/events?wait=%d&after=%s", eventsWait, url.QueryEscape(cursor)), nil, &waits); err != nil {
			return err
		}
		if same, err := s.heard(id); err != nil || !same {
			return err
		}
		s.say("")
		if err := n.work(ctx, waits.Events); err != nil {
			return err
		}
		cursor = waits.Cursor
		pace := eventsPace
		if len(waits.Events) > 0 {
			pace = workPace
		}
		if d := pace - time.Since(asked); d > 0 && !s.rest(ctx, d) {
			return ctx.Err()
		}
	}
}

// heard writes down that the hub has answered, unless this machine was made
// another node in the meantime, or none.
func (s *Settings) heard(id nodeIdentity) (same bool, err error) {
	s.change.Lock()
	defer s.change.Unlock()
	if now, err := s.identity(); err != nil || now != id {
		return false, err
	}
	// Once a minute: each is a write to an SD card.
	at := s.now().UTC().Truncate(time.Minute)
	if at.Equal(s.noted) {
		return true, nil
	}
	s.noted = at
	return true, s.store(map[string]any{keyHeard: at})
}

// settingsEvent is one thing that waits.
type settingsEvent struct {
	Type          string `json:"type"`
	ID            string `json:"id"`
	IncludeValues bool   `json:"include_values"`
	Command       string `json:"command"`
}

// nodeCalls are the calls that this machine makes as a node.
type nodeCalls struct {
	*Settings
	id nodeIdentity
}

// call makes one request about this node.
func (n *nodeCalls) call(ctx context.Context, method, path string, body, into any) error {
	ctx, cancel := context.WithTimeout(ctx, (eventsWait+15)*time.Second)
	defer cancel()
	var in io.Reader
	if body != nil {
		text, err := json.Marshal(body)
		if err != nil {
			return err
		}
		in = bytes.NewReader(text)
	}
	req, err := http.NewRequestWithContext(ctx, method, n.base()+"/api/v0/nodes/"+url.PathEscape(n.id.ID)+path, in)
	if err != nil {
		return err
	}
	req.Header.Set("X-API-Key", n.id.ID+":"+n.id.Key)
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := n.http.Do(req)
	if err != nil {
		return fmt.Errorf("asking the command service: %w", err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return fmt.Errorf("asking the command service: %w", err)
	}
	if resp.StatusCode >= 300 {
		var why struct{ Detail string }
		_ = json.Unmarshal(text, &why)
		return fmt.Errorf("the command service says: %s %.200s", resp.Status, why.Detail)
	}
	if into == nil {
		return nil
	}
	if err := json.Unmarshal(text, into); err != nil {
		return fmt.Errorf("reading the command service's answer: %w", err)
	}
	return nil
}

// work does what waits. Each kind is fetched once, and what this machine
// refuses is acknowledged as refused: it does not hold up the rest.
func (n *nodeCalls) work(ctx context.Context, events []settingsEvent) error {
	var fetched struct{ keys, pushes bool }
	for _, e := range events {
		var err error
		switch {
		case e.Type == "k2" && !fetched.keys:
			fetched.keys = true
			err = n.takeKeys(ctx)
		case e.Type == "config_push" && !fetched.pushes:
			fetched.pushes = true
			err = n.takePushes(ctx)
		case e.Type == "settings_request":
			err = n.answer(ctx, e)
		case e.Type == "command":
			err = n.obey(ctx, e)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// class is how a refusal is told to the hub: one word, and nothing of what was
// in it. An error that is no class of K2's is not the sender's fault.
func class(err error) (string, bool) {
	for word, is := range map[string]error{"malformed": k2.ErrMalformed, "forged": k2.ErrForged, "rollback": k2.ErrRollback, "conflict": k2.ErrConflict, "unproven": k2.ErrUnproven} {
		if errors.Is(err, is) {
			return word, true
		}
	}
	return "", false
}

// settle acknowledges what was taken or refused.
func (n *nodeCalls) settle(ctx context.Context, path, what string, err error) error {
	body := map[string]any{"success": true}
	if err != nil {
		word, known := class(err)
		if !known {
			return err
		}
		n.log.Warn("refused what the hub served", "what", what, "why", err)
		body = map[string]any{"success": false, "error": word}
	}
	return n.call(ctx, http.MethodPost, path, body, nil)
}

func (n *nodeCalls) takeKeys(ctx context.Context) error {
	var waits struct {
		Pending []struct {
			ID     string       `json:"request_id"`
			Sealed k2.SealedKey `json:"sealed"`
		} `json:"pending"`
	}
	if err := n.call(ctx, http.MethodGet, "/k2/pending", nil, &waits); err != nil {
		return err
	}
	for _, w := range waits.Pending {
		if err := n.settle(ctx, "/k2/ack/"+url.PathEscape(w.ID), "K2", n.takeKey(n.id.ID, w.Sealed)); err != nil {
			return err
		}
	}
	return nil
}

func (n *nodeCalls) takePushes(ctx context.Context) error {
	if k, _, err := n.k2(); err != nil || k.IsZero() {
		return err // they wait until there is a key
	}
	var waits struct {
		Pending []struct {
			ID   string `json:"id"`
			Type string `json:"config_type"`
			k2.Sealed
		} `json:"pending"`
	}
	if err := n.call(ctx, http.MethodGet, "/config/pending", nil, &waits); err != nil {
		return err
	}
	for _, w := range waits.Pending {
		if err := n.settle(ctx, "/config/"+url.PathEscape(w.ID)+"/ack", w.Type, n.take(n.id.ID, w.Type, w.Sealed)); err != nil {
			return err
		}
	}
	return nil
}

// answer uploads a snapshot of the settings, sealed. Without K2 there is none.
func (n *nodeCalls) answer(ctx context.Context, e settingsEvent) error {
	k, _, err := n.k2()
	if err != nil || k.IsZero() {
		return err
	}
	list, _, err := n.list()
	if err != nil {
		return err
	}
	type entry struct {
		SettingInfo
		Value []byte `json:"value,omitempty"`
	}
	snap := struct {
		Settings []entry `json:"settings"`
	}{[]entry{}}
	size := 0
	for _, i := range list {
		one := entry{SettingInfo: i}
		if e.IncludeValues {
			if one.Value, err = n.Get(i.Type); err != nil {
				return err
			}
			// What does not fit is named and left out.
			if size += len(one.Value) * 4 / 3; size > k2.MaxValue/2 {
				one.Value = nil
			}
		}
		snap.Settings = append(snap.Settings, one)
	}
	text, err := json.Marshal(snap)
	if err != nil {
		return err
	}
	sealed, err := k.Seal(n.id.ID, k2.Snapshot, k2.Setting{Value: text})
	if err != nil {
		return err
	}
	body := map[string]any{"ciphertext": sealed.Ciphertext, "nonce": sealed.Nonce, "tag": sealed.Tag,
		"aad_schema_version": 1, "aad_commands_schema_version": 1, "aad_revision": k.ID()}
	err = n.call(ctx, http.MethodPut, "/settings/requests/"+url.PathEscape(e.ID)+"/snapshot", body, nil)
	if err != nil && strings.Contains(err.Error(), ": 4") {
		n.log.Info("a snapshot was not taken", "err", err)
		return nil // answered before, or too late
	}
	return err
}

// obey carries a command out. A reset forgets the values and neither K2 nor the
// versions: a hub that could take these could then bring its own.
func (n *nodeCalls) obey(ctx context.Context, e settingsEvent) error {
	body := map[string]any{"success": true}
	if e.Command == "factory-reset" {
		n.change.Lock()
		err := n.forgetValues()
		n.change.Unlock()
		if err != nil {
			return err
		}
		n.log.Warn("settings were forgotten: the household's admin has reset this node")
	} else {
		body = map[string]any{"success": false, "error": "malformed"}
	}
	return n.call(ctx, http.MethodPost, "/commands/"+url.PathEscape(e.ID)+"/ack", body, nil)
}
