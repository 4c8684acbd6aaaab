package hub

import (
	"context"
	"net/http"
	"slices"

	"github.com/warrenmesh/warren/hub/control"
	"github.com/warrenmesh/warren/peer/account"
	"github.com/warrenmesh/warren/services/auth"
)

func (s *Server) clientRoutes(mux *http.ServeMux) {
	handle(mux, s, "client/add", s.addClient)
	handle(mux, s, "client/list", func(ctx context.Context, _ string, _ struct{}) ([]control.ClientInfo, error) { return s.clients(ctx) })
	handle(mux, s, "client/rm", func(ctx context.Context, who, id string) (struct{}, error) {
		return struct{}{}, told(s.accounts.auth.RemoveClient(ctx, who, id), "see which there are: hub client list")
	})
	handle(mux, s, "keys/list", func(ctx context.Context, _ string, _ struct{}) ([]control.SigningKeyInfo, error) {
		return s.signingKeys(ctx)
	})
	handle(mux, s, "keys/rotate", s.rotateSigningKey)
	handle(mux, s, "keys/rotate-root", func(ctx context.Context, who string, _ struct{}) (control.RootInfo, error) {
		signs, err := s.RotateRoot(ctx, who)
		return control.RootInfo{Signs: signs}, told(err, "")
	})
	handle(mux, s, "keys/secret", s.sharedSecret)
}

func (s *Server) addClient(ctx context.Context, actor string, spec control.ClientSpec) (control.KeyReply, error) {
	c, secret, err := s.accounts.auth.CreateClient(ctx, actor, auth.NewClient{Name: spec.Name, Redirects: spec.Redirects,
		Confidential: spec.Secret, Device: spec.Device})
	return control.KeyReply{ID: c.ID, Key: secret}, told(err, "")
}

func (s *Server) clients(ctx context.Context) ([]control.ClientInfo, error) {
	all, err := s.accounts.auth.Clients(ctx)
	if err != nil {
		return nil, err
	}
	out := make([]control.ClientInfo, 0, len(all))
	for _, c := range all {
		out = append(out, control.ClientInfo{ID: c.ID, Name: c.Name, Redirects: c.Redirects, Device: c.Device,
			Secret: c.SecretDigest != nil, Own: c.FirstParty, Created: c.Created})
	}
	return out, nil
}

// signingKeys lists the keys of tokens, the newest first.
func (s *Server) signingKeys(ctx context.Context) ([]control.SigningKeyInfo, error) {
	out := []control.SigningKeyInfo{}
	err := s.store.Accounts().View(ctx, func(tx account.Tx) error {
		keys, err := tx.SigningKeys()
		for _, k := range keys {
			clear(k.Private)
			out = append(out, control.SigningKeyInfo{ID: k.ID, Created: k.Created, Signs: k.NotBefore, Retires: k.Retires, Expires: k.Expires})
		}
		return err
	})
	slices.SortFunc(out, func(a, b control.SigningKeyInfo) int { return b.Signs.Compare(a.Signs) })
	return out, err
}

func (s *Server) rotateSigningKey(ctx context.Context, actor string, _ struct{}) (control.SigningKeyInfo, error) {
	if err := s.accounts.auth.RotateSigningKey(ctx, actor); err != nil {
		return control.SigningKeyInfo{}, err
	}
	keys, err := s.signingKeys(ctx)
	if err != nil || len(keys) == 0 {
		return control.SigningKeyInfo{}, err
	}
	return keys[0], nil
}

// sharedSecret reveals what verifies tokens in Jarvis' form, as other services
// take it: text.
func (s *Server) sharedSecret(ctx context.Context, actor string, _ struct{}) (control.KeyReply, error) {
	if !s.cfg.HS256 {
		return control.KeyReply{}, refused("start it with: hub run --hs256", "this hub makes no tokens in Jarvis' form")
	}
	secret, err := s.accounts.auth.SharedSecret(ctx, actor)
	return control.KeyReply{ID: "hs256", Key: string(secret)}, err
}
