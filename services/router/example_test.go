package router_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"

	"github.com/warrenmesh/warren/peer"
	"github.com/warrenmesh/warren/peer/account"
	"github.com/warrenmesh/warren/services"
	"github.com/warrenmesh/warren/services/router"
)

// What comes in and what goes out are structs; their tags are the documentation
// and the checks.
type renameIn struct {
	Household string `path:"household" doc:"The household."`
	Notify    bool   `query:"notify" doc:"Tell the others."`
	Body      struct {
		Name string `json:"name" minLength:"1" maxLength:"64" doc:"What it is to be called."`
	}
}

type renameOut struct {
	Body struct {
		ID   account.HouseholdID `json:"id"`
		Name string              `json:"name"`
	}
}

// One route: who may call, what keeps households apart, what is done. The
// handler runs only for a member of the household in the path, and gets at data
// with c.Scope(), which is that household and no other.
func Example() {
	r := router.New(router.Config{Service: "web", Title: "Households", Version: "1", Gate: newGate(nil)})
	router.Handle(r, router.Route{
		Method: http.MethodPatch, Path: "/households/{household}",
		Summary: "Rename a household.", Group: "households",
		Need: services.Requirement{
			Any:  []services.Credential{services.AsUser},
			Role: account.Member, Household: "household",
		},
		Tenant: "the gate lets in members of {household} only",
	}, func(_ context.Context, c *services.Caller, in *renameIn) (*renameOut, error) {
		if in.Body.Name == "taken" {
			return nil, fmt.Errorf("renaming: %w", account.ErrExists)
		}
		out := new(renameOut)
		out.Body.ID, out.Body.Name = c.Scope().Household(), in.Body.Name
		return out, nil
	})
	if err := r.Check(); err != nil {
		fmt.Println(err)
		return
	}

	send := func(household account.HouseholdID, body string) {
		req := httptest.NewRequest(http.MethodPatch, "/households/"+string(household), strings.NewReader(body))
		req.Header.Set("Authorization", "Bearer ann-token")
		req.Header.Set("Content-Type", "application/json")
		w := httptest.NewRecorder()
		r.ServeHTTP(w, req.WithContext(peer.NewContext(req.Context(), laptop)))
		fmt.Print(w.Code, " ", w.Body)
	}
	send(home, `{"name": "Burrow"}`)
	send(home, `{"name": "taken"}`)
	send(home, `{"name": "Burrow", "admin": true}`)
	send(next, `{"name": "Burrow"}`)

	// Output:
	// 200 {"id":"11111111-1111-4111-8111-111111111111","name":"Burrow"}
	// 409 {"type":"about:blank","title":"Conflict","status":409,"detail":"It exists already; choose another name."}
	// 422 {"type":"about:blank","title":"Unprocessable Entity","status":422,"detail":"The request is not valid.","errors":[{"location":"body.admin","message":"is not known here"}]}
	// 404 {"type":"about:blank","title":"Not Found","status":404,"detail":"Household not found"}
}
