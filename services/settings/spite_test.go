package settings

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/warrenmesh/warren/peer/account"
	"github.com/warrenmesh/warren/services/settings/k2"
)

// TestMemberLocksNobodyOut: a member without K2 can say any version and push any
// rubbish; others still send their settings afterwards.
func TestMemberLocksNobodyOut(t *testing.T) {
	k := newKit(t)
	push := func(who string, version uint64) reply {
		return k.call(who, post, kitchen+"/config/push", k.sealed("kitchen", "x", k2.Setting{Version: 1, Value: []byte(`{}`)}, map[string]any{"config_type": "x", "version": version}))
	}
	for _, most := range []uint64{1 << 62, 1<<63 - 1, 1 << 63, 1<<64 - 1, 1 << 53} {
		if r := push("amy", most); r.status != http.StatusUnprocessableEntity {
			t.Errorf("%d: %d %s", most, r.status, r.body)
		}
	}
	// Counting and milliseconds since 1970 are both versions.
	k.want(push("ann", 1), 201, "")
	k.want(push("ann", uint64(k.service.cfg.Now().UnixMilli())), 201, "")
	for n := 0; ; n++ {
		if r := push("amy", uint64(k.service.cfg.Now().UnixMilli())+uint64(n)+2); r.status != 201 {
			k.want(r, 409, "")
			break
		}
		if n > maxPending {
			t.Fatal("she may push without end")
		}
	}
	version := k.call("ann", get, kitchen+"/config/version?config_type=x", nil).fields["version"].(float64)
	k.want(push("ann", uint64(version)+1), 201, "")
}

// TestTokenOfWhoMayNotRegister: a provisioning token ends with the right of who
// made it.
func TestTokenOfWhoMayNotRegister(t *testing.T) {
	k := newKit(t)
	become := func(role account.Role) {
		err := k.store.Accounts().Keep(t.Context(), func(tx account.Tx) error {
			if role == account.None {
				return tx.DeleteMembership(k.home, k.users["amy"])
			}
			return tx.PutMembership(account.Membership{Household: k.home, User: k.users["amy"], Role: role})
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for i, role := range []account.Role{account.Member, account.None} {
		become(account.PowerUser)
		id := fmt.Sprint("attic", i)
		token := k.want(k.call("amy", post, "/api/v0/provisioning/token", map[string]any{"node_id": id}), 201, "").text("token")
		become(role)
		k.want(k.call("nobody", post, "/api/v0/nodes/register", map[string]any{"node_id": id, "provisioning_token": token}), 401, "Invalid or expired provisioning token")
	}
}

// TestClearKeyInEverySpelling: however a K2 comes that is not sealed it is
// refused, and neither the answer, the log nor the store has it.
func TestClearKeyInEverySpelling(t *testing.T) {
	k := newKit(t)
	const clear = "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LXNlY3I"
	for _, body := range []string{
		`{"k2":"%s"}`, `{"K2":"%s"}`, `{"\u006b2":"%s"}`, `{"\u212a2":"%s"}`, `{"k2":["%s"]}`, `{"k2":{"a":"%s"}}`, `{"k2":null,"k2":"%s"}`, `{"k2":"%s","k2":null}`,
		`{"key":"%s"}`, `{"kid":"%s"}`, `{"sealed":"%s"}`, `{"sealed":{"k2":"%s"}}`, `{"sealed":{"kid":"%s","to":"%[1]s","enc":"%[1]s","ciphertext":"%[1]s"}}`,
		`["%s"]`, `"%s"`, `{"k2":"%s"} `, `{"k2":"%s"}{}`, `{"k2":"%s"`, `{"created_at":"%s"}`, `{"k2":"%s","sealed":null}`, "\ufeff" + `{"k2":"%s"}`,
	} {
		text := fmt.Sprintf(body, clear)
		r := k.call("ann", post, kitchen+"/k2", text)
		if r.status < 400 || r.status >= 500 {
			t.Errorf("%s: %d %s", body, r.status, r.body)
		}
		if strings.Contains(r.body, clear) {
			t.Errorf("%s: the answer has it: %s", body, r.body)
		}
	}
	if strings.Contains(k.log.String(), clear) {
		t.Error("the log has it")
	}
	if r := k.call("ann", post, kitchen+"/k2?k2="+clear, `{}`); r.status < 400 || strings.Contains(r.body+k.log.String(), clear) {
		t.Errorf("in the query: %d %s", r.status, r.body)
	}
}
