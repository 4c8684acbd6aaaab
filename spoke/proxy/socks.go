package proxy

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strconv"
	"syscall"
	"time"
)

// SOCKS is a SOCKS5 proxy (RFC 1928) with CONNECT and UDP ASSOCIATE and without
// authentication. Names go to the Dialer as they are: the mesh resolves them.
type SOCKS struct {
	Dial   Dialer
	Logger *slog.Logger // nil discards
}

// Serve answers on ln until ctx ends.
func (s *SOCKS) Serve(ctx context.Context, ln net.Listener) error {
	log := logger(s.Logger)
	return serve(ctx, ln, func(ctx context.Context, c net.Conn) {
		if err := s.handle(ctx, c); err != nil && ctx.Err() == nil {
			log.Debug("socks", "err", err)
		}
	})
}

// The numbers of RFC 1928.
const (
	socksVersion = 5

	methodNone       = 0x00
	methodNoneUsable = 0xff

	cmdConnect   = 1
	cmdAssociate = 3

	atypV4   = 1
	atypName = 3
	atypV6   = 4

	repOK              = 0
	repFailure         = 1
	repNotAllowed      = 2
	repHostUnreachable = 4
	repRefused         = 5
	repTimeout         = 6
	repBadCommand      = 7
	repBadAddress      = 8
)

var errNotSOCKS = errors.New("the client does not speak SOCKS5")

func (s *SOCKS) handle(ctx context.Context, c net.Conn) error {
	if err := c.SetDeadline(time.Now().Add(helloTimeout)); err != nil {
		return err
	}
	// Nothing is read ahead of what was asked for but into this buffer, and
	// CONNECT goes on reading from it.
	r := bufio.NewReaderSize(c, 512)
	if err := greet(r, c); err != nil {
		return err
	}
	var head [3]byte // version, command, reserved
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return fmt.Errorf("reading request: %w", err)
	}
	if head[0] != socksVersion {
		return errNotSOCKS
	}
	dst, code, err := readAddress(r)
	if err != nil {
		if code != repOK {
			_ = respond(c, code, netip.AddrPort{})
		}
		return fmt.Errorf("reading request: %w", err)
	}
	if err := c.SetDeadline(time.Time{}); err != nil {
		return err
	}
	switch head[1] {
	case cmdConnect:
		return s.connect(ctx, c, r, dst)
	case cmdAssociate:
		return s.associate(ctx, c, dst)
	}
	return respond(c, repBadCommand, netip.AddrPort{})
}

// greet agrees on "no authentication". Attack: a web page makes the browser
// send an HTTP request to this port; its first byte is no version number, and
// nothing is answered.
func greet(r *bufio.Reader, w io.Writer) error {
	version, err := r.ReadByte()
	if err != nil {
		return fmt.Errorf("reading greeting: %w", err)
	}
	if version != socksVersion {
		return errNotSOCKS
	}
	n, err := r.ReadByte()
	if err != nil {
		return fmt.Errorf("reading greeting: %w", err)
	}
	methods := make([]byte, n)
	if _, err := io.ReadFull(r, methods); err != nil {
		return fmt.Errorf("reading greeting: %w", err)
	}
	for _, m := range methods {
		if m == methodNone {
			_, err := w.Write([]byte{socksVersion, methodNone})
			return err
		}
	}
	_, _ = w.Write([]byte{socksVersion, methodNoneUsable})
	return errors.New("the client insists on a password; there is none")
}

// readAddress reads ATYP, address and port and returns host:port. The code is
// what to answer if that is impossible, repOK for "nothing".
func readAddress(r io.Reader) (hostport string, code byte, err error) {
	var one [1]byte
	if _, err := io.ReadFull(r, one[:]); err != nil {
		return "", repOK, err
	}
	var host string
	switch one[0] {
	case atypV4:
		var a [4]byte
		if _, err := io.ReadFull(r, a[:]); err != nil {
			return "", repOK, err
		}
		host = netip.AddrFrom4(a).String()
	case atypV6:
		var a [16]byte
		if _, err := io.ReadFull(r, a[:]); err != nil {
			return "", repOK, err
		}
		host = netip.AddrFrom16(a).String()
	case atypName:
		if _, err := io.ReadFull(r, one[:]); err != nil {
			return "", repOK, err
		}
		name := make([]byte, one[0])
		if _, err := io.ReadFull(r, name); err != nil {
			return "", repOK, err
		}
		if !plainHost(name) {
			return "", repFailure, errors.New("the name has characters that no host name has")
		}
		host = string(name)
	default:
		return "", repBadAddress, fmt.Errorf("address type %d", one[0])
	}
	var port [2]byte
	if _, err := io.ReadFull(r, port[:]); err != nil {
		return "", repOK, err
	}
	return net.JoinHostPort(host, strconv.Itoa(int(binary.BigEndian.Uint16(port[:])))), repOK, nil
}

// plainHost keeps control characters and the like out of resolvers and logs.
func plainHost(b []byte) bool {
	for _, c := range b {
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-' || c == '.' || c == '_' || c == ':') {
			return false
		}
	}
	return len(b) > 0
}

// appendAddress writes ATYP, address and port.
func appendAddress(b []byte, a netip.AddrPort) []byte {
	switch addr := a.Addr().Unmap(); {
	case addr.Is4():
		v4 := addr.As4()
		b = append(append(b, atypV4), v4[:]...)
	case addr.Is6():
		v6 := addr.As16()
		b = append(append(b, atypV6), v6[:]...)
	default:
		b = append(b, atypV4, 0, 0, 0, 0)
	}
	return binary.BigEndian.AppendUint16(b, a.Port())
}

func respond(w io.Writer, code byte, bound netip.AddrPort) error {
	_, err := w.Write(appendAddress([]byte{socksVersion, code, 0}, bound))
	return err
}

// replyCode says in SOCKS why a Dialer failed.
func replyCode(err error) byte {
	switch {
	case errors.Is(err, ErrNotMesh), errors.Is(err, ErrPolicy):
		return repNotAllowed
	case errors.Is(err, ErrNoName), errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		return repHostUnreachable
	case errors.Is(err, syscall.ECONNREFUSED):
		return repRefused
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, syscall.ETIMEDOUT):
		return repTimeout
	}
	return repFailure
}

// buffered is a connection of which some bytes were read already.
type buffered struct {
	net.Conn
	r *bufio.Reader
}

func (b *buffered) Read(p []byte) (int, error) {
	if b.r.Buffered() > 0 {
		return b.r.Read(p[:min(len(p), b.r.Buffered())])
	}
	return b.Conn.Read(p)
}

func (b *buffered) CloseWrite() error {
	if c, ok := b.Conn.(interface{ CloseWrite() error }); ok {
		return c.CloseWrite()
	}
	return errors.ErrUnsupported
}

func (s *SOCKS) connect(ctx context.Context, c net.Conn, r *bufio.Reader, dst string) error {
	dialCtx, cancel := context.WithTimeout(ctx, dialTimeout)
	remote, err := s.Dial(dialCtx, "tcp", dst)
	cancel()
	if err != nil {
		logger(s.Logger).Warn("socks: refused", "target", dst, "err", err)
		return respond(c, replyCode(err), netip.AddrPort{})
	}
	defer remote.Close()
	if err := respond(c, repOK, addrPort(remote.LocalAddr())); err != nil {
		return err
	}
	Pipe(ctx, &buffered{c, r}, remote)
	return nil
}

// addrPort reads an address of the net package, the zero value if it is none.
func addrPort(a net.Addr) netip.AddrPort {
	if a == nil {
		return netip.AddrPort{}
	}
	ap, err := netip.ParseAddrPort(a.String())
	if err != nil {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}
