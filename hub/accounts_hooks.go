package hub

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"net/http"

	"github.com/warrenmesh/warren/hub/control"
	"github.com/warrenmesh/warren/peer"
	"github.com/warrenmesh/warren/peer/account"
)

func (s *Server) webhookRoutes(mux *http.ServeMux) {
	handle(mux, s, "webhook/add", s.addWebhook)
	handle(mux, s, "webhook/list", func(ctx context.Context, _ string, _ struct{}) ([]control.WebhookInfo, error) { return s.webhooks(ctx) })
	handle(mux, s, "webhook/rm", s.removeWebhook)
}

func (s *Server) addWebhook(ctx context.Context, actor string, spec control.WebhookSpec) (control.WebhookReply, error) {
	if err := peer.ValidName(spec.Name); err != nil {
		return control.WebhookReply{}, refused("", "name %.80q: %v", spec.Name, err)
	}
	h, err := s.home(ctx, spec.Household)
	if err != nil {
		return control.WebhookReply{}, err
	}
	raw := make([]byte, 32)
	if _, err := rand.Read(raw); err != nil {
		return control.WebhookReply{}, err
	}
	hook := account.Hook{Name: spec.Name, Secret: []byte(base64.RawURLEncoding.EncodeToString(raw)), Created: s.cfg.Now()}
	taken := refused("choose another name, or remove that one first: hub webhook rm "+spec.Name, "there is a webhook %q already", spec.Name)
	// PutHook would give one that is there a new secret.
	if _, err := s.hookHome(ctx, spec.Name); err == nil {
		return control.WebhookReply{}, taken
	} else if !errors.Is(err, account.ErrNotFound) {
		return control.WebhookReply{}, err
	}
	ev := account.Event{Actor: actor, Action: "webhook.create", Target: "webhook:" + spec.Name, Detail: map[string]string{"household": string(h.ID)}}
	err = s.store.Data().Do(ctx, account.NewScope(h.ID, 0), ev, func(sc account.Scoped) error { return sc.PutHook(hook) })
	if errors.Is(err, account.ErrExists) {
		err = taken
	}
	return control.WebhookReply{WebhookInfo: s.webhookInfo(hook, h), Secret: string(hook.Secret)}, told(err, "")
}

func (s *Server) webhookInfo(hook account.Hook, h account.Household) control.WebhookInfo {
	return control.WebhookInfo{Name: hook.Name, Household: h.ID, Home: h.Name,
		URL: "http://hooks." + s.set.domain + "/hooks/" + hook.Name, Created: hook.Created}
}

// hookHome finds whose webhook a name is.
func (s *Server) hookHome(ctx context.Context, name string) (h account.HouseholdID, err error) {
	err = s.store.Accounts().View(ctx, func(tx account.Tx) error {
		h, err = tx.HookHousehold(name)
		return err
	})
	return h, err
}

// webhooks lists them, household by household: each is looked into by itself.
func (s *Server) webhooks(ctx context.Context) ([]control.WebhookInfo, error) {
	homes, err := s.accounts.auth.Households(ctx)
	if err != nil {
		return nil, err
	}
	out := []control.WebhookInfo{}
	for _, h := range homes {
		err := s.store.Data().View(ctx, account.NewScope(h.ID, 0), func(sc account.Scoped) error {
			hooks, err := sc.Hooks()
			for _, hook := range hooks {
				clear(hook.Secret)
				out = append(out, s.webhookInfo(hook, h))
			}
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

func (s *Server) removeWebhook(ctx context.Context, actor, name string) (struct{}, error) {
	none := refused("see which there are: hub webhook list", "there is no webhook %.80q", name)
	h, err := s.hookHome(ctx, name)
	if errors.Is(err, account.ErrNotFound) {
		return struct{}{}, none
	}
	if err != nil {
		return struct{}{}, err
	}
	ev := account.Event{Actor: actor, Action: "webhook.remove", Target: "webhook:" + name, Detail: map[string]string{"household": string(h)}}
	err = s.store.Data().Do(ctx, account.NewScope(h, 0), ev, func(sc account.Scoped) error { return sc.DeleteHook(name) })
	if errors.Is(err, account.ErrNotFound) {
		return struct{}{}, none
	}
	return struct{}{}, err
}
