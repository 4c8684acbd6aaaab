package acl

import (
	"encoding/binary"
	"fmt"
	"runtime"
	"testing"
)

// fragment4 and fragment6 build one fragment. offset is in units of 8 bytes.
func fragment4(proto byte, offset uint16, more bool, id uint16, body []byte) []byte {
	b := ip(at4(nLaptop), at4(nSTT), proto, body)
	binary.BigEndian.PutUint16(b[4:], id)
	if more {
		offset |= 0x2000
	}
	binary.BigEndian.PutUint16(b[6:], offset)
	return b
}

func fragment6(proto byte, offset uint16, more bool, id uint32, body []byte) []byte {
	h := make([]byte, 8, 8+len(body))
	h[0] = proto
	offset <<= 3
	if more {
		offset |= 1
	}
	binary.BigEndian.PutUint16(h[2:], offset)
	binary.BigEndian.PutUint32(h[4:], id)
	b := ip(at6(nLaptop), at6(nSTT), 44, append(h, body...))
	return b
}

// RFC 1858: the ports are in the second fragment, or the first is so short
// that the flags are.
func TestP03_MeshB7_TinyFirstFragment(t *testing.T) {
	syn := tcpHeader(40000, 443, FlagSYN, "")
	wantReason(t, "first, 8 bytes", fragment4(6, 0, true, 1, syn[:8]), ReasonFragment)
	wantReason(t, "second", fragment4(6, 1, false, 1, syn[8:]), ReasonFragment)
	wantReason(t, "IPv6 first", fragment6(6, 0, true, 1, syn[:8]), ReasonFragment)
	wantReason(t, "IPv6 second", fragment6(6, 1, false, 1, syn[8:]), ReasonFragment)
}

// RFC 3128, Teardrop, Rose: fragments that rewrite what an allowed one said.
func TestP04_MeshB8_OverlappingFragments(t *testing.T) {
	allowed, denied := tcpHeader(40000, 443, FlagACK, "12345678"), tcpHeader(40000, 22, FlagSYN, "12345678")
	for what, b := range map[string][]byte{
		"first":                 fragment4(6, 0, true, 1, allowed[:24]),
		"first again, other":    fragment4(6, 0, true, 1, denied[:24]),
		"overlap of the flags":  fragment4(6, 1, false, 1, denied[8:24]),
		"beyond 64 KiB":         fragment4(6, 0x1fff, false, 1, denied),
		"IPv6 first":            fragment6(6, 0, true, 1, allowed[:24]),
		"IPv6 first again":      fragment6(6, 0, true, 1, denied[:24]),
		"IPv6 overlap":          fragment6(6, 1, false, 1, denied[8:24]),
		"IPv6 beyond 64 KiB":    fragment6(6, 0x1fff, false, 1, denied),
		"evil bit, no fragment": fragment4(6, 0x8000, false, 1, denied),
	} {
		wantReason(t, what, b, ReasonFragment)
	}
}

// Nothing is remembered of fragments, so trains that never end cost nothing.
func TestP05_MeshB9_FragmentFlood(t *testing.T) {
	gt := newGateTest(t, plainRule{nLaptop, nSTT, ProtoUDP, 9000, 9000})
	var before, after runtime.MemStats
	gt.in(fragment4(17, 3, true, 0, make([]byte, 64)))
	runtime.ReadMemStats(&before)
	b4, b6 := fragment4(17, 3, true, 1, make([]byte, 64)), fragment6(17, 3, true, 1, make([]byte, 64))
	for i := range 20000 {
		binary.BigEndian.PutUint16(b4[4:], uint16(i))
		gt.drop("later fragment without a first", gt.in(b4), ReasonFragment)
		gt.drop("IPv6", gt.in(b6), ReasonFragment)
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 1<<20 {
		t.Errorf("20,000 trains left %d bytes behind", grown)
	}
	gt.pass("another peer's packet meanwhile", gt.in(udp(false, nLaptop, nSTT, 40000, 9000)))
	if s := gt.Stats(); s.Reasons[ReasonFragment] != 40001 {
		t.Errorf("counted %d fragments, want 40001", s.Reasons[ReasonFragment])
	}
}

// A fragment header that says "whole" is refused like any other extension
// header: nobody needs it, and reading through it is how parsers went wrong.
func TestMeshB10_AtomicFragment(t *testing.T) {
	wantReason(t, "atomic", fragment6(17, 0, false, 1, udpHeader(40000, 9000, "hello")), ReasonFragment)
	df := udp(false, nLaptop, nSTT, 40000, 9000)
	df[6] = 0x40
	wantReason(t, "don't fragment", df, 0)
}

// Refused by design. mesh-peers asks that a 3,000-byte datagram to an allowed
// port passes in fragments. The tunnel's MTU is 1280 for everybody, so no
// sender of ours makes fragments; a stock phone's application that sends more
// than 1,232 bytes in one datagram gets nothing through, on any port, and is
// better told so by a refusal that is counted than let in unjudged.
func TestMeshB11_FragmentsAreRefusedByDesign(t *testing.T) {
	gt := newGateTest(t, plainRule{nLaptop, nSTT, ProtoUDP, 9000, 9000})
	datagram := udpHeader(40000, 9000, string(make([]byte, 3000)))
	for off := 0; off < len(datagram); off += 1232 {
		end := min(off+1232, len(datagram))
		what := fmt.Sprintf("bytes %d to %d", off, end)
		gt.drop(what, gt.in(fragment4(17, uint16(off/8), end < len(datagram), 7, datagram[off:end])), ReasonFragment)
		gt.drop(what, gt.in(fragment6(17, uint16(off/8), end < len(datagram), 7, datagram[off:end])), ReasonFragment)
	}
	gt.pass("what fits in one packet", gt.in(ip(at4(nLaptop), at4(nSTT), 17, udpHeader(40000, 9000, string(make([]byte, 1252))))))
	gt.pass("what fits in one packet", gt.in(ip(at6(nLaptop), at6(nSTT), 17, udpHeader(40000, 9000, string(make([]byte, 1232))))))
}
