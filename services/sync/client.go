package sync

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
)

// Client speaks the protocol for a spoke. It is safe for concurrent use.
type Client struct {
	// HTTP dials through the tunnel. Its Timeout, if any, must be longer than
	// Hold. Redirects are not followed, whatever it says about them.
	HTTP *http.Client
	// Base is the sync service, "http://10.77.0.3".
	Base string
}

// Self asks what is known of this peer. With the etag of an earlier answer it
// waits for a change; changed is false when there was none for Hold, and the
// caller asks again.
func (c *Client) Self(ctx context.Context, etag string) (self Self, newTag string, changed bool, err error) {
	res, err := c.do(ctx, http.MethodGet, "/v1/self", etag, nil)
	if err != nil {
		return Self{}, "", false, fmt.Errorf("asking the hub about this peer: %w", err)
	}
	defer res.Body.Close()
	if res.StatusCode == http.StatusNotModified && etag != "" {
		return Self{}, etag, false, nil
	}
	if err := read(res, &self); err != nil {
		return Self{}, "", false, fmt.Errorf("asking the hub about this peer: %w", err)
	}
	return self, res.Header.Get("ETag"), true, nil
}

// Serve offers a port of this peer under a name.
func (c *Client) Serve(ctx context.Context, r ServeRequest) (ServeReply, error) {
	var reply ServeReply
	if err := c.change(ctx, http.MethodPost, "/v1/serve", r, &reply); err != nil {
		return ServeReply{}, fmt.Errorf("offering %.63q to the mesh: %w", r.Name, err)
	}
	return reply, nil
}

// Unserve takes an offer back.
func (c *Client) Unserve(ctx context.Context, name string) error {
	if err := c.change(ctx, http.MethodDelete, "/v1/serve/"+url.PathEscape(name), nil, new(struct{})); err != nil {
		return fmt.Errorf("withdrawing %.63q from the mesh: %w", name, err)
	}
	return nil
}

// Leave removes this peer from the mesh. The tunnel may be gone before the
// answer comes, so an error does not mean that nothing happened.
func (c *Client) Leave(ctx context.Context) error {
	if err := c.change(ctx, http.MethodPost, "/v1/leave", struct{}{}, new(struct{})); err != nil {
		return fmt.Errorf("leaving the mesh: %w", err)
	}
	return nil
}

func (c *Client) change(ctx context.Context, method, path string, body, reply any) error {
	var text []byte
	if body != nil {
		var err error
		if text, err = json.Marshal(body); err != nil {
			return err
		}
	}
	res, err := c.do(ctx, method, path, "", text)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	return read(res, reply)
}

func (c *Client) do(ctx context.Context, method, path, etag string, body []byte) (*http.Response, error) {
	if c.HTTP == nil {
		return nil, errors.New("no way to the hub was set")
	}
	req, err := http.NewRequestWithContext(ctx, method, c.Base+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if etag != "" {
		req.Header.Set("If-None-Match", etag)
	}
	hc := *c.HTTP
	// The protocol has no redirects; one would lead out of the tunnel.
	hc.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return hc.Do(req)
}

func read(res *http.Response, into any) error {
	body, err := io.ReadAll(io.LimitReader(res.Body, MaxSelf+1))
	if err != nil {
		return err
	}
	if len(body) > MaxSelf {
		return fmt.Errorf("the answer is larger than %d bytes", MaxSelf)
	}
	if res.StatusCode != http.StatusOK {
		var p Problem
		if json.Unmarshal(body, &p) != nil || p.Detail == "" {
			p.Detail = "the hub answered " + res.Status
		}
		p.Status = res.StatusCode
		return &p
	}
	if err := json.Unmarshal(body, into); err != nil {
		return fmt.Errorf("reading the answer: %w", err)
	}
	return nil
}
