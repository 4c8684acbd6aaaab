package spoke

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
)

// A sign-in takes as long as its person does, so the socket answers with two
// lines: what the person has to do, and how it ended.
type loginLine struct {
	Prompt *Prompt `json:"prompt,omitempty"`
	Fault  *fault  `json:"fault,omitempty"`
	Done   bool    `json:"done,omitempty"`
}

type tokenAnswer struct {
	Token string `json:"token"`
}

func (c *Client) loginControls(mux *http.ServeMux) {
	mux.HandleFunc("POST /v1/login", func(w http.ResponseWriter, r *http.Request) {
		lines := json.NewEncoder(w)
		err := c.Login(r.Context(), func(p Prompt) {
			_ = lines.Encode(loginLine{Prompt: &p})
			_ = http.NewResponseController(w).Flush()
		})
		if err != nil {
			_ = lines.Encode(loginLine{Fault: faultOf(err)})
			return
		}
		_ = lines.Encode(loginLine{Done: true})
	})
	mux.HandleFunc("POST /v1/logout", func(w http.ResponseWriter, r *http.Request) {
		if err := c.Logout(r.Context()); err != nil {
			reportFault(w, err)
			return
		}
		reply(w, http.StatusOK, struct{}{})
	})
	mux.HandleFunc("GET /v1/token", func(w http.ResponseWriter, r *http.Request) {
		token, err := c.Token(r.Context())
		if err != nil {
			reportFault(w, err)
			return
		}
		reply(w, http.StatusOK, tokenAnswer{token})
	})
}

// Login is Client.Login of the running spoke.
func (r *Remote) Login(ctx context.Context, show func(Prompt)) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://spoke/v1/login", nil)
	if err != nil {
		return err
	}
	res, err := r.http.Do(req)
	if err != nil {
		return fmt.Errorf("asking the running spoke: %w", err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return readAnswer(res, new(struct{}))
	}
	lines := json.NewDecoder(res.Body)
	for {
		var l loginLine
		switch err := lines.Decode(&l); {
		case err != nil:
			return errors.New("asking the running spoke: it ended before the sign-in did")
		case l.Prompt != nil:
			show(*l.Prompt)
		case l.Fault != nil:
			return &remoteError{l.Fault.Error, kinds()[l.Fault.Kind]}
		case l.Done:
			return nil
		}
	}
}

// Logout is Client.Logout of the running spoke.
func (r *Remote) Logout(ctx context.Context) error {
	return r.do(ctx, http.MethodPost, "/v1/logout", new(struct{}))
}

// Token is Client.Token of the running spoke.
func (r *Remote) Token(ctx context.Context) (string, error) {
	var a tokenAnswer
	err := r.do(ctx, http.MethodGet, "/v1/token", &a)
	return a.Token, err
}

// DialTLS is Client.DialTLS of the running spoke: TLS ends there, because the
// key is there.
func (r *Remote) DialTLS(ctx context.Context, network, address string) (net.Conn, error) {
	return r.dial(ctx, network, address, overTLS)
}
