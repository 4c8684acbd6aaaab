package auth

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/warrenmesh/warren/peer"
	"github.com/warrenmesh/warren/peer/account"
)

func errApp() error   { return refuse(http.StatusUnauthorized, "Invalid app credentials") }
func errAdmin() error { return refuse(http.StatusUnauthorized, "Invalid Admin API Key") }

// App implements services.Authority.
func (a authority) App(ctx context.Context, p peer.Peer, id, key, service string) (account.App, error) {
	return a.app(ctx, p, id, key, errApp, func(app account.App) bool { return mayCall(app.Services, service) })
}

// Admin implements services.Authority. key is "ID.SECRET".
func (a authority) Admin(ctx context.Context, p peer.Peer, key string) (account.App, error) {
	id, _, ok := strings.Cut(key, ".")
	if !ok {
		return account.App{}, errAdmin()
	}
	return a.app(ctx, p, id, key, errAdmin, func(app account.App) bool { return app.Admin })
}

// AppByPeer implements services.Authority. Of several apps on one machine it is
// the first that may call the service.
func (a authority) AppByPeer(ctx context.Context, p peer.Peer, service string) (found account.App, err error) {
	if p.ID == "" {
		return account.App{}, errApp()
	}
	err = a.s.cfg.Store.View(ctx, func(tx account.Tx) error {
		all, err := tx.Apps()
		if err != nil {
			return fmt.Errorf("looking for a machine's app: %w", err)
		}
		for _, app := range all {
			if app.Peer == p.ID && app.Active && mayCall(app.Services, service) {
				found = app
				return nil
			}
		}
		return errApp()
	})
	return found, err
}

// app judges an app's key, and what else may asks of the app. The first machine
// that proves a key of an app without a machine becomes its own.
func (a authority) app(ctx context.Context, p peer.Peer, id, key string, refusal func() error, may func(account.App) bool) (account.App, error) {
	if checkID("an app's id", id) != nil || key == "" || len(key) > maxKey || p.ID == "" {
		return account.App{}, refusal()
	}
	var app account.App
	judge := func(tx account.Tx) (err error) {
		var ok bool
		if app, ok, err = judgeApp(tx, id, key); err != nil {
			return err
		}
		if !ok || !may(app) || app.Peer != "" && app.Peer != p.ID {
			return refusal()
		}
		return nil
	}
	if err := a.s.cfg.Store.View(ctx, judge); err != nil {
		return account.App{}, err
	}
	if app.Peer == p.ID {
		return app, nil
	}
	ev := account.Event{Actor: "app:" + id, Action: "app.bind", Target: appTarget(id), Detail: map[string]string{"peer": p.Name}}
	err := a.s.cfg.Store.Do(ctx, ev, func(tx account.Tx) error {
		if err := judge(tx); err != nil {
			return err
		}
		app.Peer = p.ID
		return tx.BindApp(id, p.ID)
	})
	if err = bound(err, refusal()); err != nil {
		return account.App{}, err
	}
	return app, nil
}

// judgeApp finds an app and says whether key is one of its keys and it is
// active. The key of an admin's app begins with its id.
func judgeApp(tx account.Tx, id, key string) (account.App, bool, error) {
	app, err := tx.App(id)
	if errors.Is(err, account.ErrNotFound) {
		// As much work as for an app that is there.
		_ = subtle.ConstantTimeCompare(keyDigest(tx, appOwner(id), key), make([]byte, 32))
		return account.App{}, false, nil
	} else if err != nil {
		return account.App{}, false, fmt.Errorf("finding an app: %w", err)
	}
	if app.Admin {
		key = strings.TrimPrefix(key, app.ID+".")
	}
	ok, err := keyMatches(tx, appOwner(id), key)
	if err != nil {
		return account.App{}, false, err
	}
	return app, ok && app.Active, nil
}
