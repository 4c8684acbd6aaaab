package store_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/warrenmesh/warren/hub/store"
	"github.com/warrenmesh/warren/peer"
	"github.com/warrenmesh/warren/peer/account"
)

// device is an authorization that lasts ten minutes.
func (h *home) device(code string, c *clock) account.Device {
	return account.Device{Hash: hashOf(code), UserCode: code, Client: "console", Scope: "openid", Peer: "p-pi", Key: h.key,
		Created: c.in(0).UTC(), Expires: c.in(10 * time.Minute).UTC(), Methods: []string{}}
}

func TestDevices(t *testing.T) {
	eachHome(t, func(t *testing.T, h *home, c *clock) {
		d := h.device("ABCDEFGH", c)
		kept(t, h.a, func(tx account.Tx) error { return tx.CreateDevice(d) })
		read := func() {
			t.Helper()
			seen(t, h.a, func(tx account.Tx) error {
				got, err := tx.Device(d.Hash)
				same(t, got, d)
				byCode, err2 := tx.DeviceByUserCode(d.UserCode)
				same(t, byCode, d)
				return firstError(err, err2)
			})
		}
		read()
		// In the same transaction another code can be tried.
		kept(t, h.a, func(tx account.Tx) error {
			again := h.device("ABCDEFGH", c)
			again.Hash = hashOf("again")
			if err := tx.CreateDevice(again); err == nil {
				t.Error("two devices have one user code")
			}
			again.UserCode = "HGFEDCBA"
			return tx.CreateDevice(again)
		})
		c.pass(time.Second)
		kept(t, h.a, func(tx account.Tx) error { return tx.PollDevice(d.Hash) })
		d.LastPoll = c.in(0).UTC()
		read()
		redeem := func(tx account.Tx) error { return tx.RedeemDevice(d.Hash) }
		turned(t, h.a, store.ErrConflict, redeem)
		decide := func(tx account.Tx) error {
			return tx.DecideDevice(d.UserCode, h.ann.ID, h.household.ID, false, c.in(0), []string{"pwd"})
		}
		kept(t, h.a, decide)
		d.User, d.Household, d.AuthTime, d.Methods = h.ann.ID, h.household.ID, c.in(0).UTC(), []string{"pwd"}
		read()
		turned(t, h.a, store.ErrConflict, decide)
		turned(t, h.a, store.ErrConflict, func(tx account.Tx) error {
			return tx.DecideDevice(d.UserCode, h.bob.ID, "", true, c.in(0), nil)
		})
		kept(t, h.a, redeem)
		d.Redeemed = c.in(0).UTC()
		read()
		turned(t, h.a, store.ErrConflict, redeem)
		// Denied is denied.
		kept(t, h.a, func(tx account.Tx) error { return tx.DecideDevice("HGFEDCBA", h.ann.ID, "", true, c.in(0), nil) })
		turned(t, h.a, store.ErrConflict, func(tx account.Tx) error { return tx.RedeemDevice(hashOf("again")) })
	})
}

func TestDevicesEnd(t *testing.T) {
	eachHome(t, func(t *testing.T, h *home, c *clock) {
		kept(t, h.a, func(tx account.Tx) error {
			return firstError(tx.CreateDevice(h.device("OPEN", c)), tx.CreateDevice(h.device("AGREED", c)),
				tx.DecideDevice("AGREED", h.ann.ID, "", false, c.in(0), nil))
		})
		c.pass(10 * time.Minute)
		turned(t, h.a, store.ErrConflict, func(tx account.Tx) error { return tx.DecideDevice("OPEN", h.ann.ID, "", false, c.in(0), nil) })
		turned(t, h.a, store.ErrConflict, func(tx account.Tx) error { return tx.RedeemDevice(hashOf("AGREED")) })
		// The code of one that has ended is free again.
		kept(t, h.a, func(tx account.Tx) error { return tx.CreateDevice(h.device("OPEN", c)) })
		turned(t, h.a, store.ErrNotFound, func(tx account.Tx) error { _, err := tx.Device(hashOf("AGREED")); return err })
		c.pass(10 * time.Minute)
		kept(t, h.a, func(tx account.Tx) error { return tx.PruneOAuth(c.in(1)) })
		for _, try := range []func(account.Tx) error{
			func(tx account.Tx) error { _, err := tx.Device(hashOf("OPEN")); return err },
			func(tx account.Tx) error { _, err := tx.Device(nil); return err },
			func(tx account.Tx) error { _, err := tx.DeviceByUserCode("OPEN"); return err },
			func(tx account.Tx) error { _, err := tx.DeviceByUserCode("\x00"); return err },
			func(tx account.Tx) error { return tx.PollDevice(hashOf("OPEN")) },
			func(tx account.Tx) error { return tx.PollDevice(nil) },
			func(tx account.Tx) error { return tx.RedeemDevice(hashOf("OPEN")) },
			func(tx account.Tx) error { return tx.DecideDevice("OPEN", h.ann.ID, "", false, c.in(0), nil) },
		} {
			turned(t, h.a, store.ErrNotFound, try)
		}
	})
}

func TestDevicesRefused(t *testing.T) {
	eachHome(t, func(t *testing.T, h *home, c *clock) {
		for name, bad := range map[string]func(*account.Device){
			"hash":     func(d *account.Device) { d.Hash = nil },
			"code":     func(d *account.Device) { d.UserCode = "" },
			"no peer":  func(d *account.Device) { d.Peer = "" },
			"no key":   func(d *account.Device) { d.Key = peer.PublicKey{} },
			"scope":    func(d *account.Device) { d.Scope = "\x00" },
			"expired":  func(d *account.Device) { d.Expires = c.in(0) },
			"decided":  func(d *account.Device) { d.User = h.ann.ID },
			"denied":   func(d *account.Device) { d.Denied = true },
			"redeemed": func(d *account.Device) { d.Redeemed = c.in(0) },
		} {
			t.Run(name, func(t *testing.T) {
				d := h.device("CODE", c)
				bad(&d)
				turned(t, h.a, store.ErrInvalid, func(tx account.Tx) error { return tx.CreateDevice(d) })
			})
		}
		d := h.device("CODE", c)
		d.Client = "nobody"
		turned(t, h.a, store.ErrNotFound, func(tx account.Tx) error { return tx.CreateDevice(d) })
		for i := range store.MaxRequests + 1 {
			d := h.device(fmt.Sprint("CODE", i), c)
			d.Created = c.in(time.Duration(i))
			kept(t, h.a, func(tx account.Tx) error { return tx.CreateDevice(d) })
		}
		turned(t, h.a, store.ErrNotFound, func(tx account.Tx) error { _, err := tx.DeviceByUserCode("CODE0"); return err })
		turned(t, h.a, store.ErrNotFound, func(tx account.Tx) error { return tx.DecideDevice("CODE1", 0, "", false, c.in(0), nil) })
		kept(t, h.a, func(tx account.Tx) error { return tx.DecideDevice("CODE1", h.ann.ID, "", false, c.in(0), nil) })
	})
}

// TestRedeemDeviceOnce: of 32 polls at once, one gets the tokens.
func TestRedeemDeviceOnce(t *testing.T) {
	eachHome(t, func(t *testing.T, h *home, c *clock) {
		kept(t, h.a, func(tx account.Tx) error { return tx.CreateDevice(h.device("CODE", c)) })
		same(t, race(t, h.a, func(tx account.Tx, i int) error {
			return tx.DecideDevice("CODE", h.ann.ID, "", false, c.in(0), nil)
		}), 1)
		same(t, race(t, h.a, func(tx account.Tx, i int) error { return tx.RedeemDevice(hashOf("CODE")) }), 1)
	})
}

func TestSigningKeys(t *testing.T) {
	eachHome(t, func(t *testing.T, h *home, c *clock) {
		k := account.SigningKey{ID: "kid", Private: []byte("PKCS #8"), Created: c.in(0).UTC(), NotBefore: c.in(time.Minute).UTC()}
		kept(t, h.a, func(tx account.Tx) error {
			return firstError(tx.PutSigningKey(k), tx.PutSigningKey(account.SigningKey{ID: "next", Private: []byte("x"), Created: c.in(1)}))
		})
		k.Retires, k.Expires = c.in(time.Hour).UTC(), c.in(2*time.Hour).UTC()
		kept(t, h.a, func(tx account.Tx) error {
			changed := k
			changed.Private, changed.Created = []byte("another"), c.in(time.Hour) // neither can change
			return tx.PutSigningKey(changed)
		})
		seen(t, h.a, func(tx account.Tx) error {
			list, err := tx.SigningKeys()
			same(t, list, []account.SigningKey{k, {ID: "next", Private: []byte("x"), Created: c.in(1).UTC()}})
			return err
		})
		kept(t, h.a, func(tx account.Tx) error { return tx.DeleteSigningKey("kid") })
		turned(t, h.a, store.ErrNotFound, func(tx account.Tx) error { return tx.DeleteSigningKey("kid") })
		turned(t, h.a, store.ErrNotFound, func(tx account.Tx) error { return tx.DeleteSigningKey("\x00") })
		turned(t, h.a, store.ErrInvalid, func(tx account.Tx) error { return tx.PutSigningKey(account.SigningKey{ID: "x"}) })
		turned(t, h.a, store.ErrInvalid, func(tx account.Tx) error { return tx.PutSigningKey(account.SigningKey{Private: []byte("x")}) })
		turned(t, h.a, store.ErrConflict, func(tx account.Tx) error {
			for i := range 20 {
				if err := tx.PutSigningKey(account.SigningKey{ID: fmt.Sprint(i), Private: []byte("x")}); err != nil {
					return err
				}
			}
			return nil
		})
	})
}
