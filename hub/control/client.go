package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"syscall"
)

// Client talks to the hub whose state is in one directory. It is safe for
// concurrent use.
type Client struct {
	dir  string
	http http.Client
}

// NewClient returns a client for the hub in dir. It does not connect yet.
func NewClient(dir string) *Client {
	path := filepath.Join(dir, Socket)
	return &Client{dir: dir, http: http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", path)
		},
		MaxIdleConns: 1,
	}}}
}

// Call sends req (nil for none) to the hub's command and decodes the answer
// into reply (nil to ignore it). A refusal is an *Error.
func (c *Client) Call(ctx context.Context, command string, req, reply any) error {
	body, err := c.open(ctx, command, req)
	if err != nil {
		return err
	}
	defer body.Close()
	if reply == nil {
		return nil
	}
	if err := json.NewDecoder(io.LimitReader(body, MaxBody)).Decode(reply); err != nil {
		return fmt.Errorf("reading the hub's answer: %w", err)
	}
	return nil
}

// Stream is Call for an answer that is bytes: a backup. The caller closes it.
func (c *Client) Stream(ctx context.Context, command string, req any) (io.ReadCloser, error) {
	return c.open(ctx, command, req)
}

func (c *Client) open(ctx context.Context, command string, req any) (io.ReadCloser, error) {
	var body bytes.Buffer
	if req != nil {
		if err := json.NewEncoder(&body).Encode(req); err != nil {
			return nil, fmt.Errorf("encoding request: %w", err)
		}
	}
	hr, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://hub/v1/"+command, &body)
	if err != nil {
		return nil, fmt.Errorf("making request: %w", err)
	}
	hr.Header.Set("Content-Type", "application/json")
	resp, err := c.http.Do(hr)
	if err != nil {
		return nil, c.explain(err)
	}
	if resp.StatusCode < http.StatusBadRequest {
		return resp.Body, nil
	}
	defer resp.Body.Close()
	refusal := &Error{Status: resp.StatusCode}
	if err := json.NewDecoder(io.LimitReader(resp.Body, MaxBody)).Decode(refusal); err != nil || refusal.Message == "" {
		refusal.Message = "the hub answered " + resp.Status
	}
	return nil, refusal
}

// explain turns the ways of not reaching a hub into what to do.
func (c *Client) explain(err error) error {
	_, dir := os.Stat(c.dir)
	switch {
	case errors.Is(dir, fs.ErrNotExist):
		return &Error{
			Message: "there is no hub in " + c.dir,
			Hint:    "say where it is with --dir, or make one: hub init --dir " + c.dir + " --endpoint HOST:PORT",
		}
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return &Error{
			Message: "no hub is running on " + c.dir,
			Hint:    "start it with: hub run --dir " + c.dir,
		}
	case errors.Is(err, fs.ErrPermission):
		return &Error{
			Message: "you may not talk to the hub in " + c.dir,
			Hint:    "run this as the user that runs the hub, or as root",
		}
	}
	return fmt.Errorf("talking to the hub: %w", err)
}
