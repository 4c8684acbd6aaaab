package spoke

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
)

// Settings are this machine's, as a node of a household. Run keeps them up to
// date.
func (c *Client) Settings() *Settings { return c.settings }

// makeSettings is part of Open.
func (c *Client) makeSettings() {
	c.settings = newSettings(c.vault, c.HTTPClient(), func() string { return "http://command." + c.Membership().Domain }, c.log)
}

// OpenSettings opens the settings of a machine whose spoke is not running, to
// look at and to change; ErrBusy if it is. Close gives the directory back.
func OpenSettings(dir string) (*Settings, error) {
	v, err := openVault(dir)
	if err != nil {
		return nil, err
	}
	return newSettings(v, http.DefaultClient, func() string { return "" }, (&Config{}).logger()), nil
}

// Close gives back what OpenSettings opened.
func (s *Settings) Close() error { return s.vault.Close() }

// nodeOrder and keyOrder are what the commands of this machine's owner say
// through the socket.
type nodeOrder struct {
	ID  string `json:"id"`
	Key string `json:"key"`
}

type keyOrder struct {
	Text       string `json:"text"`
	Passphrase string `json:"passphrase"`
}

type keyReplyBody struct {
	KID string `json:"kid"`
}

type valueBody struct {
	Value []byte `json:"value"`
}

// maxOrder bounds an order, in bytes.
const maxOrder = 16 << 10

// settingsControls adds to the control socket.
func (c *Client) settingsControls(mux *http.ServeMux) {
	answer := func(w http.ResponseWriter, v any, err error) {
		if err == nil {
			reply(w, http.StatusOK, v)
			return
		}
		reportFault(w, err)
	}
	read := func(r *http.Request, into any) error {
		body, err := io.ReadAll(io.LimitReader(r.Body, maxOrder))
		if err == nil {
			err = json.Unmarshal(body, into)
		}
		return err
	}
	mux.HandleFunc("GET /v1/settings", func(w http.ResponseWriter, r *http.Request) {
		st, err := c.settings.Status()
		answer(w, st, err)
	})
	mux.HandleFunc("GET /v1/settings/value", func(w http.ResponseWriter, r *http.Request) {
		value, err := c.settings.Get(r.URL.Query().Get("type"))
		answer(w, valueBody{value}, err)
	})
	mux.HandleFunc("POST /v1/settings/node", func(w http.ResponseWriter, r *http.Request) {
		var o nodeOrder
		err := read(r, &o)
		if err == nil {
			err = c.settings.SetNode(o.ID, o.Key)
		}
		answer(w, struct{}{}, err)
	})
	mux.HandleFunc("POST /v1/settings/key", func(w http.ResponseWriter, r *http.Request) {
		var o keyOrder
		var kid string
		err := read(r, &o)
		if err == nil {
			kid, err = c.settings.ImportKey(o.Text, o.Passphrase)
		}
		answer(w, keyReplyBody{kid}, err)
	})
	mux.HandleFunc("POST /v1/settings/key/forget", func(w http.ResponseWriter, r *http.Request) {
		answer(w, struct{}{}, c.settings.ForgetKey())
	})
}

// RemoteSettings are the settings of a running spoke.
type RemoteSettings struct{ r *Remote }

// Settings is Client.Settings of the running spoke.
func (r *Remote) Settings() *RemoteSettings { return &RemoteSettings{r} }

// Close closes nothing: the Remote is its owner's to close.
func (s *RemoteSettings) Close() error { return nil }

// Status is Settings.Status of the running spoke.
func (s *RemoteSettings) Status() (st SettingsStatus, err error) {
	err = s.do(http.MethodGet, "/v1/settings", nil, &st)
	return st, err
}

// Get is Settings.Get of the running spoke.
func (s *RemoteSettings) Get(configType string) ([]byte, error) {
	var v valueBody
	err := s.do(http.MethodGet, "/v1/settings/value?type="+url.QueryEscape(configType), nil, &v)
	return v.Value, err
}

// SetNode is Settings.SetNode of the running spoke.
func (s *RemoteSettings) SetNode(id, key string) error {
	return s.do(http.MethodPost, "/v1/settings/node", nodeOrder{id, key}, new(struct{}))
}

// ImportKey is Settings.ImportKey of the running spoke.
func (s *RemoteSettings) ImportKey(text, passphrase string) (string, error) {
	var v keyReplyBody
	err := s.do(http.MethodPost, "/v1/settings/key", keyOrder{text, passphrase}, &v)
	return v.KID, err
}

// ForgetKey is Settings.ForgetKey of the running spoke.
func (s *RemoteSettings) ForgetKey() error {
	return s.do(http.MethodPost, "/v1/settings/key/forget", nil, new(struct{}))
}

func (s *RemoteSettings) do(method, path string, body, into any) error {
	var in io.Reader
	if body != nil {
		text, err := json.Marshal(body)
		if err != nil {
			return err
		}
		in = bytes.NewReader(text)
	}
	req, err := http.NewRequestWithContext(context.Background(), method, "http://spoke"+path, in)
	if err != nil {
		return err
	}
	resp, err := s.r.http.Do(req)
	if err != nil {
		return fmt.Errorf("asking the running spoke: %w", err)
	}
	defer resp.Body.Close()
	return readAnswer(resp, into)
}

// forgetAll removes everything of settings together with changes of the vault
// that belong to it, once nobody is in the middle of another change.
func (s *Settings) forgetAll(changes map[string][]byte) error {
	s.change.Lock()
	defer s.change.Unlock()
	names, err := s.vault.Names(settingsPrefix)
	if err != nil {
		return fmt.Errorf("reading settings: %w", err)
	}
	for _, name := range names {
		changes[name] = nil
	}
	return s.vault.Apply(changes)
}
