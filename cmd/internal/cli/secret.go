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

// Password asks for a new password on the terminal, twice, or reads one line
// from standard input when that is no terminal.
func Password() (string, error) {
	if !Terminal(os.Stdin) {
		b, err := io.ReadAll(io.LimitReader(os.Stdin, maxSecret+1))
		if err != nil {
			return "", fmt.Errorf("reading password: %w", err)
		}
		line, rest, _ := bytes.Cut(b, []byte("\n"))
		if len(b) > maxSecret || len(bytes.TrimSpace(rest)) > 0 {
			return "", errors.New("standard input holds more than one line; a password is one")
		}
		if line = bytes.TrimSuffix(line, []byte("\r")); len(line) == 0 {
			return "", Hint(errors.New("there is no password on standard input"), "type it on a terminal, or pipe one line")
		}
		return string(line), nil
	}
	first, err := ask("Password: ")
	if err != nil {
		return "", err
	}
	second, err := ask("Once more: ")
	if err != nil {
		return "", err
	}
	if !bytes.Equal(first, second) {
		return "", errors.New("the two passwords differ")
	}
	return string(first), nil
}

// Confirm asks a question that only "yes" answers. Without a terminal nobody
// is asked and the answer is no.
func Confirm(question string) (bool, error) {
	if !Terminal(os.Stdin) {
		return false, nil
	}
	fmt.Fprintf(os.Stderr, "%s Type yes to go on: ", question)
	line := make([]byte, 16)
	n, err := os.Stdin.Read(line)
	if err != nil && !errors.Is(err, io.EOF) {
		return false, fmt.Errorf("reading the answer: %w", err)
	}
	return string(bytes.TrimSpace(line[:n])) == "yes", nil
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
