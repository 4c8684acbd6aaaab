package store

import (
	"fmt"
	"math"
	"strings"
	"time"
)

// MaxFlows is the most flow records that are kept; the longest unseen go first.
const MaxFlows = 20_000

// FlowRecord says who tried to reach what, and how that went.
type FlowRecord struct {
	// Src is a peer's ID. Dst is one too, or a service's name: records
	// outlive an address.
	Src, Dst    string
	Proto       uint8  // IP protocol number
	Port        uint16 // of the destination, 0 for ICMP
	Allowed     bool
	Reason      string // the last one
	Count       uint64
	First, Last time.Time
}

// maxFlowText is the longest name or reason in a flow record; more is cut off.
const maxFlowText = 200

// MergeFlows adds counts to what is kept: same source, destination, protocol,
// port and verdict are one record.
func (tx *Tx) MergeFlows(flows []FlowRecord) error {
	for _, f := range flows {
		err := tx.exec("merging flows", `INSERT INTO flows (src, dst, proto, port, allowed, reason, count, first_seen, last_seen)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
			ON CONFLICT (src, dst, proto, port, allowed) DO UPDATE SET
				reason = excluded.reason,
				count = CASE WHEN flows.count > 4611686018427387904 THEN flows.count ELSE flows.count + excluded.count END,
				first_seen = CASE WHEN excluded.first_seen < flows.first_seen THEN excluded.first_seen ELSE flows.first_seen END,
				last_seen = CASE WHEN excluded.last_seen > flows.last_seen THEN excluded.last_seen ELSE flows.last_seen END`,
			flowText(f.Src), flowText(f.Dst), int64(f.Proto), int64(f.Port), flag(f.Allowed), flowText(f.Reason),
			int64(min(f.Count, math.MaxInt64/2)), nanos(f.First), nanos(f.Last))
		if err != nil {
			return err
		}
	}
	n, err := tx.count("counting flows", `SELECT COUNT(*) FROM flows`)
	if err != nil || n <= MaxFlows {
		return err
	}
	return tx.exec("dropping old flows", `DELETE FROM flows WHERE (last_seen, src, dst, proto, port, allowed) <= (
		SELECT last_seen, src, dst, proto, port, allowed FROM flows
		ORDER BY last_seen DESC, src DESC, dst DESC, proto DESC, port DESC, allowed DESC LIMIT 1 OFFSET $1)`, MaxFlows)
}

// flowText makes s storable: a flow record is bookkeeping and refuses nothing.
func flowText(s string) string {
	s = strings.ReplaceAll(strings.ToValidUTF8(s, "�"), "\x00", "�")
	if len(s) > maxFlowText {
		s = strings.ToValidUTF8(s[:maxFlowText], "")
	}
	return s
}

// Flows returns up to limit records, those seen last first.
func (tx *Tx) Flows(limit int) ([]FlowRecord, error) {
	var list []FlowRecord
	err := tx.each("reading flows", `SELECT src, dst, proto, port, allowed, reason, count, first_seen, last_seen FROM flows
		ORDER BY last_seen DESC, src DESC, dst DESC, proto DESC, port DESC, allowed DESC LIMIT $1`,
		[]any{max(limit, 0)}, func(scan func(...any) error) error {
			var f FlowRecord
			var proto, port, allowed, count, first, last int64
			if err := scan(&f.Src, &f.Dst, &proto, &port, &allowed, &f.Reason, &count, &first, &last); err != nil {
				return err
			}
			if proto < 0 || proto > math.MaxUint8 || port < 0 || port > math.MaxUint16 {
				return fmt.Errorf("flow record: %w", ErrCorrupt)
			}
			f.Proto, f.Port, f.Allowed, f.Count = uint8(proto), uint16(port), allowed != 0, uint64(count)
			f.First, f.Last = fromNanos(first), fromNanos(last)
			list = append(list, f)
			return nil
		})
	return list, err
}

// ForgetFlows removes the records of a source or destination that is gone.
func (tx *Tx) ForgetFlows(name string) error {
	return tx.exec("forgetting flows", `DELETE FROM flows WHERE src = $1 OR dst = $2`, flowText(name), flowText(name))
}
