package main

import (
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/warrenmesh/warren/cmd/internal/cli"
	"github.com/warrenmesh/warren/services"
)

// redisFlags say where the rate limits are shared.
type redisFlags struct{ address, file string }

func (r *redisFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&r.address, "redis", "", "share rate limits with other hubs through this Redis: redis://HOST:PORT/DB, without a password")
	cmd.Flags().StringVar(&r.file, "redis-file", "", "read that address, which may hold a password, from this file; - for standard input")
	cmd.MarkFlagsMutuallyExclusive("redis", "redis-file")
}

// maxAddress is the size of a Redis address in bytes.
const maxAddress = 4 << 10

// read returns the address, "" if there is none. A password in an argument is
// refused rather than warned about: every user of the machine could read it for
// as long as the hub runs.
func (r *redisFlags) read(cmd *cobra.Command) (string, error) {
	address := r.address
	if r.file != "" {
		var err error
		if address, err = r.fromFile(cmd); err != nil {
			return "", fmt.Errorf("reading the address of Redis: %w", err)
		}
	}
	if address == "" {
		if r.file != "" || cmd.Flags().Changed("redis") {
			return "", cli.Usage("the address of Redis is empty, it looks like redis://127.0.0.1:6379/0")
		}
		return "", nil
	}
	u, err := url.Parse(address)
	if err != nil || !strings.HasPrefix(address, "/") && u.Scheme != "redis" && u.Scheme != "rediss" && u.Scheme != "unix" {
		// Not err: it repeats the address.
		return "", cli.Usage("that is no address of Redis; it looks like redis://127.0.0.1:6379/0, rediss:// or unix:///run/redis.sock")
	}
	if r.file != "" {
		return address, nil
	}
	_, inUser := u.User.Password()
	if query := u.Query(); inUser || query.Has("password") {
		return "", cli.Hint(cli.Usage("--redis holds a password, which every user of this machine could read"),
			"put the address into a file that only the hub can read, and say --redis-file FILE")
	}
	return address, nil
}

func (r *redisFlags) fromFile(cmd *cobra.Command) (string, error) {
	in := cmd.InOrStdin()
	if r.file != "-" {
		f, err := os.Open(r.file)
		if err != nil {
			return "", err
		}
		defer f.Close()
		info, err := f.Stat()
		if err != nil {
			return "", err
		}
		if info.Mode().Perm()&0o077 != 0 {
			return "", cli.Hint(fmt.Errorf("others may read %s", r.file), "chmod 600 "+r.file)
		}
		in = f
	}
	b, err := io.ReadAll(io.LimitReader(in, maxAddress+1))
	if err == nil && len(b) > maxAddress {
		err = errors.New("it is longer than 4 KiB")
	}
	return strings.TrimSpace(string(b)), err
}

// appProof reads --app-proof.
func appProof(word string) (services.AppProof, error) {
	proofs := map[string]services.AppProof{"key": services.ByKey, "certificate": services.ByCertificate,
		"both": services.ByBoth, "either": services.ByEither}
	proof, ok := proofs[word]
	if !ok {
		return 0, cli.Usage("--app-proof is key, certificate, both or either, not %.20q", word)
	}
	return proof, nil
}
