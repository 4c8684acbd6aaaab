package netstack

import (
	"fmt"

	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"

	"github.com/warrenmesh/warren/peer"
)

// Reach tells the stack where a peer is and initiates a handshake with it
// there. The caller has proof of the endpoint: taking a stranger's word for it
// would let the stranger lead a peer's traffic astray until its next packet.
func (s *Stack) Reach(key peer.PublicKey, at conn.Endpoint) error {
	p := s.dev.LookupPeer(device.NoisePublicKey(key))
	if p == nil {
		return fmt.Errorf("reaching peer %s: it is not one of ours", key.Short())
	}
	p.SetEndpointFromPacket(at)
	return s.Handshake(key)
}
