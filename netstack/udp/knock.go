package udp

import (
	"github.com/warrenmesh/warren/peer"
	"golang.zx2c4.com/wireguard/conn"
)

// Message types of the knock; WireGuard uses 1 to 4.
const (
	typeKnock = 0x51
	typeReply = 0x52
	typeProof = 0x53
	typeDone  = 0x54
)

// Knocks is the hub's side.
type Knocks struct {
	Hub     peer.PrivateKey
	Lookup  func(peer.PublicKey) (peer.PresharedKey, bool)
	OnKnock func(peer.PublicKey, conn.Endpoint)
}

type knockServer struct{}
type callers struct{}

func newKnockServer(*Bind, Knocks) *knockServer { return &knockServer{} }
func (*knockServer) close()                     {}

func (b *Bind) admitKnock([]byte, *path) { b.count.knock.Add(1) }
func (b *Bind) admitReply([]byte, *path) { b.count.knock.Add(1) }
