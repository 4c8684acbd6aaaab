package spoke

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// The files that KeepCertificates writes, all PEM.
const (
	CertificateKey    = "key.pem"    // the private key, mode 0600
	CertificateServer = "server.pem" // for serving
	CertificateClient = "client.pem" // for calling
	CertificateRoots  = "ca.pem"     // whom to trust
)

// certificateRetry is how long KeepCertificates waits for a hub that does not
// answer.
const certificateRetry = 30 * time.Second

// KeepCertificates writes this machine's certificates into dir, for programs
// that do their own TLS, and again whenever they are renewed, until ctx ends.
// The key is written first and each file is replaced as a whole; a program that
// reads them between two replacements finds a pair that does not match, and
// should read again.
func (c *Client) KeepCertificates(ctx context.Context, dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("making directory for certificates: %w", err)
	}
	var written *Certificates
	for {
		c.mu.Lock()
		changed := c.changed
		c.mu.Unlock()
		wait := certificateRetry
		now, err := c.Certificates(ctx)
		switch {
		case err != nil && ctx.Err() == nil:
			c.log.Warn("getting certificates", "err", err)
		case err == nil && now != written:
			if err := now.write(dir); err != nil {
				return err
			}
			c.log.Info("certificates written", "dir", dir, "until", now.NotAfter())
			written = now
		}
		if written != nil {
			wait = max(written.renew.Sub(written.now()), certificateRetry)
		}
		select {
		case <-time.After(wait):
		case <-changed: // perhaps another name
		case <-ctx.Done():
			return nil
		}
	}
}

func (s *Certificates) write(dir string) error {
	for _, f := range []struct {
		name string
		mode os.FileMode
		text []byte
	}{
		{CertificateKey, 0o600, s.key},
		{CertificateServer, 0o644, []byte(s.reply.Server)},
		{CertificateClient, 0o644, []byte(s.reply.Client)},
		{CertificateRoots, 0o644, []byte(s.reply.Roots)},
	} {
		if err := replace(filepath.Join(dir, f.name), f.mode, f.text); err != nil {
			return fmt.Errorf("writing certificates: %w", err)
		}
	}
	return nil
}

// replace writes a file as a whole or not at all.
func replace(path string, mode os.FileMode, text []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // gone when all went well
	if err := f.Chmod(mode); err != nil {
		_ = f.Close()
		return err
	}
	if _, err := f.Write(text); err != nil {
		_ = f.Close()
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
