package main

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/warrenmesh/warren/cmd/internal/cli"
	"github.com/warrenmesh/warren/spoke"
)

// getFlags are the flags of spoke get.
type getFlags struct {
	output  string
	include bool
	head    bool
	login   bool
	maxTime time.Duration
}

func (a *app) getCmd() *cobra.Command {
	var f getFlags
	cmd := &cobra.Command{
		Use:   "get URL",
		Short: "Fetch something from the mesh, like a small curl",
		Long: `get fetches a URL through the tunnel, with the mesh's names, and prints the body.
It fails (exit code 1) if the answer is an HTTP error, and says which; redirects
are not followed.`,
		Example: `  spoke get http://console.warren.internal/
  spoke get -i lights/state
  spoke get --login https://auth.warren.internal/auth/me
  spoke get -o model.bin http://llm.warren.internal:8080/model`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			u, err := parseURL(args[0])
			if err != nil {
				return err
			}
			m, err := a.attach(cmd.Context())
			if err != nil {
				return err
			}
			defer m.Close()
			return f.get(cmd, a, m, u)
		},
	}
	cmd.Flags().StringVarP(&f.output, "output", "o", "", "write the body to `FILE`")
	cmd.Flags().BoolVarP(&f.include, "include", "i", false, "print the header as well")
	cmd.Flags().BoolVarP(&f.head, "head", "I", false, "ask for the header only, and print it")
	cmd.Flags().BoolVar(&f.login, "login", false, "speak for who signed in with spoke login")
	cmd.Flags().DurationVar(&f.maxTime, "max-time", 0, "give up after this long, as in 30s (default never)")
	return cmd
}

// parseURL takes http and https URLs, and supplies a missing http://.
func parseURL(s string) (*url.URL, error) {
	if !strings.Contains(s, "://") {
		s = "http://" + s
	}
	u, err := url.Parse(s)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, cli.Usage("%.200q is no http:// or https:// URL", s)
	}
	return u, nil
}

func (f *getFlags) get(cmd *cobra.Command, a *app, m mesh, u *url.URL) error {
	transport := &http.Transport{DialContext: m.Dial, DialTLSContext: m.DialTLS, DisableCompression: true}
	defer transport.CloseIdleConnections()
	client := &http.Client{
		Transport: transport, Timeout: f.maxTime,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	method := http.MethodGet
	if f.head {
		method = http.MethodHead
	}
	req, err := http.NewRequestWithContext(cmd.Context(), method, u.String(), nil)
	if err != nil {
		return err
	}
	req.Header.Set("User-Agent", "spoke/"+version)
	if f.login {
		token, err := m.Token(cmd.Context())
		if err != nil {
			return a.explain(err)
		}
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := client.Do(req)
	if err != nil {
		return refusal(err, u)
	}
	defer resp.Body.Close()
	if err := f.print(cmd.OutOrStdout(), resp); err != nil {
		return fmt.Errorf("fetching %s: %w", u.Redacted(), err)
	}
	if resp.StatusCode >= 400 {
		return fmt.Errorf("%s answered %s", u.Redacted(), resp.Status)
	}
	return nil
}

func (f *getFlags) print(out io.Writer, resp *http.Response) (err error) {
	if f.include || f.head {
		if _, err := fmt.Fprintf(out, "%s %s\r\n", resp.Proto, resp.Status); err != nil {
			return err
		}
		if err := resp.Header.Write(out); err != nil {
			return err
		}
		if _, err := io.WriteString(out, "\r\n"); err != nil {
			return err
		}
	}
	if f.head {
		return nil
	}
	if f.output != "" && f.output != "-" {
		file, err := os.Create(f.output)
		if err != nil {
			return err
		}
		_, err = io.Copy(file, resp.Body)
		return errors.Join(err, file.Close())
	}
	_, err = io.Copy(out, resp.Body)
	return err
}

// refusal says in one sentence why there is no answer, and what to do.
func refusal(err error, u *url.URL) error {
	if ue, ok := errors.AsType[*url.Error](err); ok {
		err = ue.Err // without the URL, which people have just typed
	}
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
	}
	name, _, _ := strings.Cut(u.Hostname(), ".")
	ask := fmt.Sprintf("ask the admin for svc:%s:%s", name, port)
	switch {
	case errors.Is(err, spoke.ErrPolicy), errors.Is(err, spoke.ErrNoName), errors.Is(err, spoke.ErrNotMesh):
		return err
	case errors.Is(err, syscall.ECONNREFUSED):
		return cli.Hint(fmt.Errorf("%s refused the connection", u.Host), "nothing listens on that port, or the hub's policy refuses it: "+ask)
	case errors.Is(err, syscall.ECONNRESET):
		return cli.Hint(fmt.Errorf("%s ended the connection", u.Host), "if the policy has just changed: "+ask)
	}
	return fmt.Errorf("fetching %s: %w", u.Redacted(), err)
}
