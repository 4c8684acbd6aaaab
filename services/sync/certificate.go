package sync

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/warrenmesh/warren/peer"
)

// CertificateRequest asks the hub to vouch for a key of the calling peer.
type CertificateRequest struct {
	// Request is a PKCS #10 certificate request, DER, for an ECDSA P-256 or
	// Ed25519 key. The names in it are ignored: the hub knows who calls.
	Request []byte `json:"request"`
}

// CertificateReply holds what the hub vouches for, PEM.
type CertificateReply struct {
	// Server and Client are certificates of the key, for serving and for
	// calling. Their names and addresses are the peer's own.
	Server string `json:"server"`
	Client string `json:"client"`
	// Roots are the authorities that count now. All of them are to be trusted,
	// and no others from before.
	Roots    string    `json:"roots"`
	NotAfter time.Time `json:"not_after"`
	// Now is the hub's clock, by which the certificates are judged: a machine
	// without a clock of its own starts in 1970.
	Now time.Time `json:"now"`
}

func (h *handler) certificate(w http.ResponseWriter, r *http.Request) {
	p, _ := peer.FromContext(r.Context())
	var req CertificateRequest
	if err := decode(r, &req); err != nil {
		h.problem(w, r, err)
		return
	}
	reply, err := h.src.Certificate(r.Context(), p, req)
	if err != nil {
		h.problem(w, r, err)
		return
	}
	writeJSON(w, http.StatusOK, reply)
}

// Certificate asks for certificates of a key.
func (c *Client) Certificate(ctx context.Context, r CertificateRequest) (CertificateReply, error) {
	var reply CertificateReply
	if err := c.change(ctx, http.MethodPost, "/v1/certificate", r, &reply); err != nil {
		return CertificateReply{}, fmt.Errorf("asking the hub for a certificate: %w", err)
	}
	return reply, nil
}
