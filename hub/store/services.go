package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/warrenmesh/warren/peer"
)

// Service is something published under a name, with its own tunnel addresses.
type Service struct {
	Name string
	// Target is what stands behind it on the hub, as in "http://127.0.0.1:8123".
	// A machine of the mesh keeps its own: there it may be empty.
	Target string
	// Ports are what can be reached; a machine of the mesh that offers nothing
	// just now keeps its name without any.
	Ports []Port
	// Host is the peer that offers it, "" for the hub's own machine.
	Host    peer.ID
	V4, V6  netip.Addr
	Created time.Time
}

// Port is a range of ports of one protocol.
type Port struct {
	Proto uint8  `json:"proto"` // IP protocol number: 6 TCP, 17 UDP
	First uint16 `json:"first"`
	Last  uint16 `json:"last"`
}

// maxPorts is the most port ranges that one service has.
const maxPorts = 32

const selectServices = `SELECT name, target, ports, host, idx, created FROM services`

// Services returns what is published, in the order of its addresses.
func (tx *Tx) Services() ([]Service, error) {
	return tx.services(selectServices + ` ORDER BY idx`)
}

// Service returns one, ErrNotFound if there is none.
func (tx *Tx) Service(name string) (Service, error) {
	if peer.ValidName(name) != nil {
		return Service{}, ErrNotFound
	}
	return only(tx.services(selectServices+` WHERE name = $1`, name))
}

func (tx *Tx) services(query string, args ...any) ([]Service, error) {
	plan, err := tx.Plan()
	if errors.Is(err, ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var list []Service
	err = tx.each("reading services", query, args, func(scan func(...any) error) error {
		var s Service
		var ports, host string
		var idx, created int64
		if err := scan(&s.Name, &s.Target, &ports, &host, &idx, &created); err != nil {
			return err
		}
		if err := json.Unmarshal([]byte(ports), &s.Ports); err != nil {
			return fmt.Errorf("service %s: ports: %w", s.Name, ErrCorrupt)
		}
		s.Host, s.Created = peer.ID(host), fromNanos(created)
		s.V4, s.V6 = plan.Addrs(Index(idx))
		list = append(list, s)
		return nil
	})
	return list, err
}

func (s Service) check() error {
	if s.Target == "" && s.Host == "" || strings.ContainsFunc(s.Target, func(r rune) bool { return r <= ' ' || r == 0x7f }) {
		return fmt.Errorf("%w: the target has blanks or control characters, or is missing; write it as in \"http://127.0.0.1:8123\"", ErrInvalid)
	}
	if err := checkText("target", s.Target); err != nil {
		return err
	}
	// A machine that has withdrawn its service keeps the name, without a port.
	if len(s.Ports) == 0 && s.Host == "" || len(s.Ports) > maxPorts {
		return fmt.Errorf("%w: a service has 1 to %d port ranges", ErrInvalid, maxPorts)
	}
	for _, p := range s.Ports {
		if (p.Proto != 6 && p.Proto != 17) || p.First == 0 || p.Last < p.First {
			return fmt.Errorf("%w: a port range is TCP or UDP, from 1 to 65535, lowest first", ErrInvalid)
		}
	}
	return nil
}

// PutService publishes s or changes what is published under its name. The
// addresses are chosen the first time, from FirstPublished on, and kept after;
// those in s are ignored. A name sticks to the host that had it first: another
// host is ErrConflict until RemoveService.
func (tx *Tx) PutService(s Service) (Service, error) {
	fail := func(err error) (Service, error) { return Service{}, fmt.Errorf("publishing service: %w", err) }
	if err := s.check(); err != nil {
		return fail(err)
	}
	if err := tx.claimName(s.Name, holdService+s.Name); err != nil {
		return fail(err)
	}
	ports, err := json.Marshal(s.Ports)
	if err != nil {
		return fail(err)
	}
	old, err := tx.Service(s.Name)
	switch {
	case err == nil && old.Host != s.Host:
		return fail(fmt.Errorf("%q belongs to another machine: %w", s.Name, ErrConflict))
	case err == nil:
		if err := tx.exec("changing service", `UPDATE services SET target = $1, ports = $2 WHERE name = $3`, s.Target, string(ports), s.Name); err != nil {
			return fail(err)
		}
		return tx.Service(s.Name)
	case !errors.Is(err, ErrNotFound):
		return fail(err)
	}
	if s.Host != "" {
		if _, err := tx.Peer(s.Host); err != nil {
			return fail(fmt.Errorf("its host: %w", err))
		}
	}
	plan, err := tx.Plan()
	if err != nil {
		return fail(err)
	}
	idx, err := tx.allocate(Range{FirstPublished, plan.Services().Last}, RestPeer, holdService+s.Name, keptForHub)
	if err != nil {
		return fail(err)
	}
	if err := tx.exec("publishing service", `INSERT INTO services (name, target, ports, host, idx, created) VALUES ($1, $2, $3, $4, $5, $6)`,
		s.Name, s.Target, string(ports), string(s.Host), int64(idx), nanos(tx.now)); err != nil {
		return fail(err)
	}
	return tx.Service(s.Name)
}

// RemoveService takes a service off the mesh. Its addresses rest for RestPeer.
func (tx *Tx) RemoveService(name string) error {
	if _, err := tx.Service(name); err != nil {
		return fmt.Errorf("removing service: %w", err)
	}
	if err := tx.exec("removing service", `DELETE FROM services WHERE name = $1`, name); err != nil {
		return err
	}
	return tx.free(holdService + name)
}
