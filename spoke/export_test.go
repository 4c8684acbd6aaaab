package spoke

import "testing"

// MeshForExample is for the examples, which have no testing.TB: a hub, a
// configuration and an invite for a machine called kitchen.
func MeshForExample(t testing.TB) (Config, string) {
	h := newMiniHub(t)
	cfg := h.config(t, "198.51.100.1")
	cfg.Logger = nil
	return cfg, h.invite("kitchen")
}
