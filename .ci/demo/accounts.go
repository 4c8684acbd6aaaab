package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/warrenmesh/warren/hub/control"
)

// authDoor is the account service, on a port of the laptop's own.
const authDoor = "127.0.0.1:7701"

// ask calls a service with curl. What is secret goes in through a pipe. It
// returns the status and what was said.
func (t *tour) ask(network, url, token, body string) (status int, text string, err error) {
	quoted := strings.NewReplacer(`\`, `\\`, `"`, `\"`)
	var conf strings.Builder
	if token != "" {
		fmt.Fprintf(&conf, "header = \"Authorization: Bearer %s\"\n", token)
	}
	if body != "" {
		fmt.Fprintf(&conf, "header = \"Content-Type: application/json\"\ndata = \"%s\"\n", quoted.Replace(body))
	}
	out, err := t.out(network, conf.String(), "curl", "-sS", "-m", "10", "-K", "-", "-w", `\n%{http_code}`, url)
	if err != nil {
		return 0, "", err
	}
	at := strings.LastIndexByte(out, '\n')
	_, err = fmt.Sscan(out[at+1:], &status)
	return status, strings.TrimSpace(out[:max(at, 0)]), err
}

// signIn makes ann's account and household, and signs her in on the laptop.
func (t *tour) signIn() (access, household string, err error) {
	const password = "a password for a tour"
	if _, err := t.out("", password, t.bin+"/hub", "--dir", t.dir+"/hub", "user", "add", "ann@example.org", "--name", "ann"); err != nil {
		return "", "", err
	}
	for _, args := range [][]string{{"add", "Ann's", "--label", "home"}, {"member", "home", "ann@example.org", "--role", "admin"}} {
		if _, err := t.hub(append([]string{"household"}, args...)...); err != nil {
			return "", "", err
		}
	}
	began := time.Now()
	status, text, err := t.ask("home", "http://"+authDoor+"/auth/login", "", `{"email": "ann@example.org", "password": "`+password+`"}`)
	if err != nil {
		return "", "", err
	}
	t.say(status == http.StatusOK, "ann signs in on the laptop in %s, most of it a hash that makes guessing dear", ms(time.Since(began)))
	var tokens struct {
		Access string `json:"access_token"`
	}
	if err := json.Unmarshal([]byte(text), &tokens); err != nil {
		return "", "", fmt.Errorf("reading what the sign-in gave: %w", err)
	}
	var homes []control.HouseholdInfo
	if text, err = t.hub("household", "list", "--json"); err != nil {
		return "", "", err
	}
	if err := json.Unmarshal([]byte(text), &homes); err != nil || len(homes) != 1 {
		return "", "", fmt.Errorf("reading the households: %w", err)
	}
	return tokens.Access, string(homes[0].ID), nil
}

func (t *tour) actAccounts() error {
	access, household, err := t.signIn()
	if err != nil {
		return err
	}
	status, _, err := t.ask("home", "http://"+authDoor+"/auth/me", access, "")
	if err != nil {
		return err
	}
	t.say(status == http.StatusOK, "what she got says who she is: %d", status)
	addr, err := t.resolve("auth.warren.internal")
	if err != nil {
		return err
	}
	status, text, err := t.ask("mobile", "http://"+addr+"/auth/me", access, "")
	if err != nil {
		return err
	}
	t.say(status == http.StatusUnauthorized, "the same token, stolen and used on her own phone: %d %s", status, text)
	home := "http://" + authDoor + "/households/" + household
	before, _, err := t.ask("home", home, access, "")
	if err != nil {
		return err
	}
	if _, err := t.hub("household", "member", "home", "ann@example.org", "--role", "none"); err != nil {
		return err
	}
	after, text, err := t.ask("home", home, access, "")
	if err != nil {
		return err
	}
	t.say(before == http.StatusOK && after == http.StatusNotFound, "her household, before and after she was taken out of it: %d, and with the next request %d %s", before, after, text)
	return nil
}
