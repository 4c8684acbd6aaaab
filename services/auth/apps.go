package auth

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/warrenmesh/warren/peer"
	"github.com/warrenmesh/warren/peer/account"
)

// Self is the name of this service in the lists of what nodes and apps may
// call.
const Self = "auth"

// NewApp is an app to be registered.
type NewApp struct {
	ID   string
	Name string
	// Peer is the name of the machine that the app runs on; "" is the first
	// that proves the key.
	Peer string
	// Services are what it may call, "*" for all; nil is this service alone:
	// an app that was given nothing may ask who somebody is, and no more.
	Services []string
	// Households are those it may ask about; empty means all.
	Households []account.HouseholdID
	// Admin marks a key of the admin's own tools.
	Admin bool
}

func appTarget(id string) string { return "app:" + id }

// appMay says whether an app may know of a household.
func appMay(a account.App, h account.HouseholdID) bool {
	return len(a.Households) == 0 || slices.Contains(a.Households, h)
}

// appServices is serviceList, with "*" for all.
func appServices(names []string) ([]string, error) {
	if slices.Equal(names, []string{"*"}) {
		return names, nil
	}
	return serviceList(names)
}

// CreateApp registers an app and returns its key, which is shown this once and
// kept nowhere. The key of an admin app is "ID.SECRET".
func (s *Service) CreateApp(ctx context.Context, actor string, n NewApp) (account.App, string, error) {
	return s.createApp(ctx, actor, n, anything)
}

func (s *Service) createApp(ctx context.Context, actor string, n NewApp, may func(account.Tx) error) (app account.App, key string, err error) {
	if err := checkID("an app's id", n.ID); err != nil {
		return app, "", err
	}
	if n.Admin && strings.Contains(n.ID, ".") {
		return app, "", fmt.Errorf("an admin key's id has no dot: %w", account.ErrInvalid)
	}
	if err := checkName(n.Name); err != nil {
		return app, "", err
	}
	if n.Services == nil {
		n.Services = []string{Self}
	}
	if n.Services, err = appServices(n.Services); err != nil {
		return app, "", err
	}
	ev := account.Event{Actor: actor, Action: "app.create", Target: appTarget(n.ID), Detail: map[string]string{"services": strings.Join(n.Services, " ")}}
	if n.Admin {
		ev.Detail["admin"] = "true"
	}
	err = s.cfg.Store.Do(ctx, ev, func(tx account.Tx) error {
		if err := may(tx); err != nil {
			return err
		}
		app, key, err = s.putApp(tx, n)
		return err
	})
	if err != nil {
		return account.App{}, "", err
	}
	return app, key, nil
}

// putApp writes an app that has been checked, and its first key.
func (s *Service) putApp(tx account.Tx, n NewApp) (account.App, string, error) {
	none := func(err error) (account.App, string, error) { return account.App{}, "", err }
	switch _, err := tx.App(n.ID); {
	case err == nil:
		return none(badRequest("app_id already exists"))
	case !errors.Is(err, account.ErrNotFound):
		return none(fmt.Errorf("finding the app: %w", err))
	}
	for _, h := range n.Households {
		if _, err := tx.Household(h); err != nil {
			return none(missing(err, "Household", "finding a household"))
		}
	}
	app := account.App{ID: n.ID, Name: n.Name, Active: true, Services: n.Services, Households: n.Households, Admin: n.Admin, Created: tx.Now()}
	if n.Peer != "" {
		p, ok := s.cfg.Roster().ByName(n.Peer)
		if !ok || p.Kind == peer.KindInvite {
			return none(notFound("Peer"))
		}
		app.Peer = p.ID
	}
	if err := tx.CreateApp(app); err != nil {
		return none(fmt.Errorf("creating an app: %w", err))
	}
	key, err := newAppKey(tx, app, 0)
	return app, key, err
}

// newAppKey gives an app a new key and returns its text.
func newAppKey(tx account.Tx, app account.App, overlap time.Duration) (string, error) {
	key, err := addKey(tx, appOwner(app.ID), overlap)
	if err == nil && app.Admin {
		key = app.ID + "." + key
	}
	return key, err
}

// Apps lists the apps.
func (s *Service) Apps(ctx context.Context) (all []account.App, err error) {
	err = s.cfg.Store.View(ctx, func(tx account.Tx) error {
		all, err = tx.Apps()
		return err
	})
	return all, err
}

// RotateApp gives an app a new key, shown this once. The old one is good for
// overlap more, 0 for not at all. A revoked app works again with the new key.
func (s *Service) RotateApp(ctx context.Context, actor, id string, overlap time.Duration) (account.App, string, error) {
	return s.rotateApp(ctx, actor, id, overlap, anything)
}

func (s *Service) rotateApp(ctx context.Context, actor, id string, overlap time.Duration, may func(account.Tx) error) (a account.App, key string, err error) {
	err = s.changeApp(ctx, actor, "app.rotate", id, map[string]string{"overlap": overlap.String()}, may, func(tx account.Tx, app *account.App) error {
		if key, err = newAppKey(tx, *app, overlap); err != nil {
			return err
		}
		app.Active, app.Rotated = true, tx.Now()
		a = *app
		return nil
	})
	if err != nil {
		return account.App{}, "", err
	}
	return a, key, nil
}

// RevokeApp ends an app: none of its keys works any more, and what it has
// running ends.
func (s *Service) RevokeApp(ctx context.Context, actor, id string) error {
	return s.revokeApp(ctx, actor, id, anything)
}

func (s *Service) revokeApp(ctx context.Context, actor, id string, may func(account.Tx) error) error {
	return s.changeApp(ctx, actor, "app.revoke", id, nil, may, func(tx account.Tx, app *account.App) error {
		app.Active = false
		return endKeys(tx, appOwner(id))
	})
}

// ScopeApp changes what an app may call and which households it may ask about;
// no household means all.
func (s *Service) ScopeApp(ctx context.Context, actor, id string, names []string, households []account.HouseholdID) error {
	names, err := appServices(names)
	if err != nil {
		return err
	}
	detail := map[string]string{"services": strings.Join(names, " "), "households": fmt.Sprint(len(households))}
	return s.changeApp(ctx, actor, "app.scope", id, detail, anything, func(tx account.Tx, app *account.App) error {
		for _, h := range households {
			if _, err := tx.Household(h); err != nil {
				return missing(err, "Household", "finding a household")
			}
		}
		app.Services, app.Households = names, households
		return nil
	})
}

// changeApp changes an app in a transaction of its own and has what runs
// judged again.
func (s *Service) changeApp(ctx context.Context, actor, action, id string, detail map[string]string, may func(account.Tx) error, change func(account.Tx, *account.App) error) error {
	if checkID("an app's id", id) != nil {
		return notFound("App client")
	}
	ev := account.Event{Actor: actor, Action: action, Target: appTarget(id), Detail: detail}
	err := s.cfg.Store.Do(ctx, ev, func(tx account.Tx) error {
		if err := may(tx); err != nil {
			return err
		}
		app, err := tx.App(id)
		if err != nil {
			return missing(err, "App client", "finding the app")
		}
		if err := change(tx, &app); err != nil {
			return err
		}
		return tx.UpdateApp(app)
	})
	if err == nil {
		s.changed()
	}
	return err
}
