package settings

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/warrenmesh/warren/peer/account"
	"github.com/warrenmesh/warren/services"
	"github.com/warrenmesh/warren/services/router"
)

func (s *Service) registerProvisioning(r *router.Router) {
	router.Handle(r, created(route(http.MethodPost, "/api/v0/provisioning/token", "Make a token with which one node registers itself, once.", tenantAdmin, asAdminOr(account.PowerUser))), s.token)
	register := created(route(http.MethodPost, "/api/v0/nodes/register", "Register the calling machine as a node, with a provisioning token.",
		"The token names the household; whoever has none learns nothing.", services.Requirement{Any: []services.Credential{services.AsPeer}}))
	router.Handle(r, register, s.register)
}

const tokenPrefix = "prov_"

type tokenIn struct {
	Body struct {
		Household account.HouseholdID `json:"household_id,omitempty" maxLength:"64"`
		Room      string              `json:"room,omitempty" maxLength:"64"`
		Name      string              `json:"name,omitempty" maxLength:"64"`
		NodeID    string              `json:"node_id,omitempty" maxLength:"64" doc:"One is made up if it is missing."`
	}
}

type tokenOut struct {
	Body struct {
		Token     string    `json:"token"`
		NodeID    string    `json:"node_id"`
		ExpiresAt time.Time `json:"expires_at"`
		ExpiresIn int       `json:"expires_in" doc:"Seconds."`
	}
}

func (s *Service) token(ctx context.Context, c *services.Caller, in *tokenIn) (*tokenOut, error) {
	h, err := s.household(c, in.Body.Household)
	if err != nil {
		return nil, err
	}
	secret := make([]byte, 32)
	_, _ = rand.Read(secret) // it never fails: crypto/rand
	token := tokenPrefix + base64.RawURLEncoding.EncodeToString(secret)
	sum := sha256.Sum256([]byte(token))
	e := account.Enrolment{Hash: sum[:], Node: in.Body.NodeID, Household: h, Name: in.Body.Name, Room: in.Body.Room, By: c.User.ID}
	if e.Node == "" {
		e.Node = newID()
	}
	if e.Name == "" {
		e.Name = e.Node
	}
	err = s.cfg.Store.Do(ctx, event(c, "node.token", e.Node, map[string]string{"household": string(h)}), func(tx account.Tx) error {
		if _, err := tx.Household(h); err != nil {
			return missing(err, "Household not found")
		}
		if n, err := tx.Node(e.Node); err == nil && n.Active {
			return refusal(http.StatusBadRequest, "Node already registered")
		} else if err != nil && !errors.Is(err, account.ErrNotFound) {
			return fmt.Errorf("looking for the node: %w", err)
		}
		e.Expires = tx.Now().Add(EnrolmentLife)
		return tx.PutEnrolment(e)
	})
	if err != nil {
		return nil, err
	}
	out := new(tokenOut)
	out.Body.Token, out.Body.NodeID, out.Body.ExpiresAt = token, e.Node, stamp(e.Expires)
	out.Body.ExpiresIn = int(EnrolmentLife / time.Second)
	return out, nil
}

type registerIn struct {
	Body struct {
		NodeID string `json:"node_id" minLength:"1" maxLength:"64"`
		Token  string `json:"provisioning_token" maxLength:"256"`
		Room   string `json:"room,omitempty" maxLength:"64"`
	}
}

type registerOut struct {
	Body struct {
		NodeID    string `json:"node_id"`
		Room      string `json:"room"`
		User      string `json:"user"`
		VoiceMode string `json:"voice_mode"`
		NodeKey   string `json:"node_key" doc:"Shown this once."`
	}
}

// register uses the token up before the node is made: two machines with one
// token never both become the node. The key works from the calling machine.
func (s *Service) register(ctx context.Context, c *services.Caller, in *registerIn) (*registerOut, error) {
	sum := sha256.Sum256([]byte(in.Body.Token))
	bad := refusal(http.StatusUnauthorized, "Invalid or expired provisioning token")
	var e account.Enrolment
	err := s.cfg.Store.Do(ctx, event(c, "node.register", in.Body.NodeID, nil), func(tx account.Tx) (err error) {
		e, err = tx.UseEnrolment(sum[:])
		if errors.Is(err, account.ErrNotFound) || errors.Is(err, account.ErrConflict) {
			return bad
		}
		if err != nil {
			return fmt.Errorf("using the token: %w", err)
		}
		if e.Node != in.Body.NodeID {
			return bad // and the token stays good: the transaction is undone
		}
		// The token ends with the right of who made it. An admin key is nobody's.
		if e.By != 0 {
			m, err := tx.Membership(e.Household, e.By)
			if errors.Is(err, account.ErrNotFound) || err == nil && m.Role < account.PowerUser {
				return bad
			} else if err != nil {
				return fmt.Errorf("looking for who made the token: %w", err)
			}
		}
		if n, err := tx.Node(e.Node); err == nil && n.Active {
			return refusal(http.StatusBadRequest, "Node already registered")
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	room := in.Body.Room
	if room == "" {
		room = e.Room
	}
	n := NewNode{ID: e.Node, Name: e.Name, Household: e.Household, Peer: c.Peer.Name, RegisteredBy: e.By, Room: room, Services: s.cfg.NodeServices}
	node, key, err := s.cfg.CreateNode(ctx, c.Actor(), n)
	if errors.Is(err, account.ErrExists) {
		err = refusal(http.StatusBadRequest, "Node already registered")
	}
	if err != nil {
		return nil, err
	}
	out := new(registerOut)
	out.Body.NodeID, out.Body.Room, out.Body.NodeKey = node.ID, node.Room, key
	out.Body.User, out.Body.VoiceMode = "default", "brief"
	return out, nil
}
