package acl

import "strings"

// DefaultPolicy is the text that a new hub starts with. admin is the first
// user, without a trailing "@"; it must pass peer.ValidUser. The text compiles
// in any world, an empty one included.
func DefaultPolicy(admin string) []byte {
	user := `"` + selector{kind: selUser, name: admin}.String() + `"`
	if admin == "" {
		user = ""
	}
	return []byte(strings.ReplaceAll(defaultPolicy, "ADMIN", user))
}

const defaultPolicy = `// Who may reach what. Whatever no rule here allows is refused.
// "hub acl check FILE" tries an edited copy, "hub acl apply FILE" puts it to
// use at once, and "hub acl explain WHO WHAT:PORT" says why.
{
  // The users, by the household they live in. Machines of different
  // households never reach each other, whatever a rule says.
  "households": {
    "home":   [ADMIN],
    "guests": [],
  },

  "groups": {
    "group:admin": [ADMIN], // also known as autogroup:admin
  },

  // Who may give a machine a tag. A tagged machine is nobody's any more:
  // rules about its owner no longer mean it.
  "tagOwners": {
    "tag:speaker": ["group:admin"],
    "tag:server":  ["group:admin"],
  },

  "acls": [
    // The admin's machines reach everything that is published, and the console.
    {"action": "accept", "src": ["group:admin"], "dst": ["svc:*"]},

    // Everybody reaches their own machines.
    {"action": "accept", "src": ["autogroup:member"], "dst": ["autogroup:self:*"]},

    // Everybody may ask for names, and ping the hub.
    {"action": "accept", "src": ["*"], "dst": ["svc:dns", "svc:hub"]},

    // People sign in and ask; a speaker asks in its household's name. Whom
    // they then are is up to their account.
    {"action": "accept", "src": ["autogroup:member"], "dst": ["svc:auth", "svc:command"]},
    {"action": "accept", "src": ["tag:speaker"], "dst": ["svc:command"]},

    // Webhooks come from machines that are told to send them, and no other:
    // {"action": "accept", "src": ["tag:server"], "dst": ["svc:hooks"]},

    // For the household, once there is such a service:
    // {"action": "accept", "src": ["household:home"], "dst": ["svc:stt:443"]},
  ],

  // Examples that must hold, or the policy is not accepted:
  // "tests": [ {"src": "bob@", "accept": ["svc:stt:443"], "deny": ["svc:console:80"]} ],

  // Proofs: no edit that breaks one is ever accepted.
  "never": [
    {"src": ["household:guests"], "dst": ["svc:console:*", "svc:hooks:*"]},
  ],
}
`
