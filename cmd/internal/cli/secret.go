package cli

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/term"
)

// maxSecret bounds a passphrase file, in bytes.
const maxSecret = 4 << 10

// Passphrase reads a passphrase from a file ("-" is standard input), or asks
// for it on the terminal, twice when it is a new one. It never comes from an
// argument or the environment, where others could see it.
func Passphrase(file string, confirm bool) (string, error) {
	if file != "" {
		return passphraseFile(file)
	}
	if !Terminal(os.Stdin) {
		return "", Hint(errors.New("there is no terminal to ask for the passphrase on"), "put it in a file and say --passphrase-file FILE")
	}
	first, err := ask("Passphrase: ")
	if err != nil {
		return "", err
	}
	if confirm {
		second, err := ask("Once more: ")
		if err != nil {
			return "", err
		}
		if !bytes.Equal(first, second) {
			return "", errors.New("the two passphrases differ")
		}
	}
	return string(first), nil
}

func ask(prompt string) ([]byte, error) {
	fmt.Fprint(os.Stderr, prompt)
	b, err := term.ReadPassword(int(os.Stdin.Fd()))
	fmt.Fprintln(os.Stderr)
	if err != nil {
		return nil, fmt.Errorf("reading passphrase: %w", err)
	}
	return b, nil
}

func passphraseFile(name string) (string, error) {
	in := os.Stdin
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return "", fmt.Errorf("reading passphrase: %w", err)
		}
		defer f.Close()
		in = f
	}
	b, err := io.ReadAll(io.LimitReader(in, maxSecret+1))
	if err != nil {
		return "", fmt.Errorf("reading passphrase: %w", err)
	}
	if len(b) > maxSecret {
		return "", fmt.Errorf("reading passphrase: %s is longer than %d bytes", name, maxSecret)
	}
	return string(bytes.TrimRight(b, "\r\n")), nil
}
