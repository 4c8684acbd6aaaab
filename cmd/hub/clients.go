package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/warrenmesh/warren/cmd/internal/cli"
	"github.com/warrenmesh/warren/hub/control"
)

func (a *app) clientCmd() *cobra.Command {
	return group("client", "people", "OAuth clients: programs that people sign in to: add, list, rm",
		`A client is a program that people sign in to with their account here: OAuth 2.0,
the code flow with PKCE, or the device flow for machines without a browser. The
issuer is https://auth.DOMAIN; the rest is at
https://auth.DOMAIN/.well-known/openid-configuration`,
		a.clientAdd(), a.clientList(),
		a.remove("client", "client/rm", "rm ID", "Remove a client; its sign-ins end", "is removed", completer(a, "client/list", clientWord)))
}

func (a *app) clientAdd() *cobra.Command {
	var spec control.ClientSpec
	cmd := &cobra.Command{Use: "add NAME --redirect URI", Short: "Add a client and print its id, or its secret", Args: cobra.ExactArgs(1),
		Long: `Adds a client. A redirect must be met exactly; only the port of a loopback
address may differ. A program on a phone or a desktop needs no secret: it could
not keep one. With --secret one is printed, once, alone on standard output.`,
		Example: "  hub client add notes --redirect http://127.0.0.1/callback\n  hub client add wiki --redirect https://wiki.warren.internal/oauth --secret > secret\n  hub client add satellite --device",
		RunE: func(cmd *cobra.Command, args []string) error {
			spec.Name = args[0]
			if len(spec.Redirects) == 0 && !spec.Device {
				return cli.Usage("--redirect is missing: where does the sign-in go back to; or --device for a machine without a browser")
			}
			var reply control.KeyReply
			if err := a.call(cmd, "client/add", spec, &reply); err != nil {
				return err
			}
			if reply.Key == "" {
				show(cmd, reply.ID, "That is its client_id; it has no secret.")
				return nil
			}
			show(cmd, reply.Key, "Its client_id is "+reply.ID+". The secret is not shown again.")
			return nil
		}}
	f := cmd.Flags()
	f.StringArrayVar(&spec.Redirects, "redirect", nil, "where the sign-in goes back to; may be repeated")
	f.BoolVar(&spec.Device, "device", false, "it may use the device flow")
	f.BoolVar(&spec.Secret, "secret", false, "give it a secret; only for programs on a server")
	return cmd
}

func (a *app) clientList() *cobra.Command {
	return table(a, "client/list", "List the clients", "There is none. Add one: hub client add NAME --redirect URI",
		[]string{"ID", "NAME", "REDIRECTS", "SINCE", "NOTE"},
		func(c control.ClientInfo) []string {
			var notes []string
			for _, n := range []struct {
				is   bool
				what string
			}{{c.Own, "the hub's own"}, {c.Device, "device flow"}, {c.Secret, "has a secret"}} {
				if n.is {
					notes = append(notes, n.what)
				}
			}
			return []string{c.ID, c.Name, strings.Join(c.Redirects, " "), c.Created.Local().Format(time.DateOnly), strings.Join(notes, ", ")}
		})
}

func (a *app) webhookCmd() *cobra.Command {
	return group("webhook", "people", "Webhooks: who may send events to a household: add, list, rm",
		`A webhook lets a program send events to a household, signed with a secret of its
own. Its machine must be let to svc:hooks by the policy.`,
		a.webhookAdd(), a.webhookList(),
		a.remove("webhook", "webhook/rm", "rm NAME", "Remove a webhook", "is removed", completer(a, "webhook/list", webhookWord)))
}

func (a *app) webhookAdd() *cobra.Command {
	var spec control.WebhookSpec
	cmd := &cobra.Command{Use: "add NAME --household HOUSEHOLD", Short: "Add a webhook and print its secret", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			spec.Name = args[0]
			if spec.Household == "" {
				return cli.Usage("--household is missing: whose events are they; see: hub household list")
			}
			var reply control.WebhookReply
			if err := a.call(cmd, "webhook/add", spec, &reply); err != nil {
				return err
			}
			show(cmd, reply.Secret, "Events go to "+reply.URL+" with X-Jarvis-Timestamp and X-Jarvis-Signature. The secret is not shown again.")
			return nil
		}}
	cmd.Flags().StringVar(&spec.Household, "household", "", "whose events they are: a name, label or id")
	completeFlag(a, cmd, "household", "household/list", householdWord)
	return cmd
}

func (a *app) webhookList() *cobra.Command {
	return table(a, "webhook/list", "List the webhooks", "There is none. Add one: hub webhook add NAME --household HOUSEHOLD",
		[]string{"NAME", "HOUSEHOLD", "URL", "SINCE"},
		func(h control.WebhookInfo) []string {
			return []string{h.Name, h.Home, h.URL, h.Created.Local().Format(time.DateOnly)}
		})
}

func (a *app) keysCmd() *cobra.Command {
	return group("keys", "people", "The keys that sign tokens: list, rotate, secret",
		`Access tokens are signed with a key that is replaced every 30 days by itself. The
one before goes on verifying for an hour, longer than any token lives.`,
		a.keysList(), a.keysRotate(), a.keysSecret())
}

func (a *app) keysList() *cobra.Command {
	return table(a, "keys/list", "List the keys that sign and verify tokens", "There is none; the hub makes one when it starts.",
		[]string{"KEY", "SIGNS FROM", "UNTIL", "VERIFIES UNTIL"},
		func(k control.SigningKeyInfo) []string {
			when := func(t time.Time) string {
				if t.IsZero() {
					return ""
				}
				return t.Local().Format(time.DateTime)
			}
			return []string{k.ID, when(k.Signs), when(k.Retires), when(k.Expires)}
		})
}

func (a *app) keysRotate() *cobra.Command {
	root := false
	cmd := &cobra.Command{Use: "rotate", Short: "Sign with a new key from now on", Args: cobra.NoArgs,
		Long: `Signs access tokens with a new key from now on.

With --root it is the hub's certificate authority that gets a new key. That one
is announced first and signs a day later, when every spoke has heard of it; the
old one counts for another day. Phones and programs that were given ca.crt need
the new one in the meantime.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if root {
				var r control.RootInfo
				if err := a.call(cmd, "keys/rotate-root", nil, &r); err != nil {
					return err
				}
				fmt.Fprintf(cmd.OutOrStdout(), "A new root is announced; it signs from %s.\n", r.Signs.Local().Format(time.DateTime))
				return nil
			}
			var k control.SigningKeyInfo
			if err := a.call(cmd, "keys/rotate", nil, &k); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "Tokens are signed with %s now.\n", k.ID)
			return nil
		}}
	cmd.Flags().BoolVar(&root, "root", false, "announce a new root of the certificate authority instead")
	return cmd
}

func (a *app) keysSecret() *cobra.Command {
	return &cobra.Command{Use: "secret", Short: "Print the secret of tokens in Jarvis' form (hub run --hs256)", Args: cobra.NoArgs,
		Long: `Prints the secret that services outside need to verify access tokens in Jarvis'
form. Who has it can make such tokens, for anybody: use it while you move, and
no longer. That it was shown is in the audit log.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var reply control.KeyReply
			if err := a.call(cmd, "keys/secret", nil, &reply); err != nil {
				return err
			}
			show(cmd, reply.Key, "Services know it as AUTH_SECRET_KEY or JARVIS_AUTH_SECRET_KEY.")
			return nil
		}}
}
