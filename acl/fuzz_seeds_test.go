package acl

import (
	"encoding/binary"
	"strings"
)

// fuzzSeeds is one packet or more for every row of the packet cases, P-01 to
// P-16, that is about bytes.
func fuzzSeeds() [][]byte {
	var seeds [][]byte
	syn := tcpHeader(40000, 443, FlagSYN, "")
	for _, length := range []uint16{65496, 65500, 65535} { // P-01
		b := tcp(true, nLaptop, nSTT, 40000, 443, FlagSYN, "")
		binary.BigEndian.PutUint16(b[4:], length)
		seeds = append(seeds, b, b[:length+40])
	}
	seeds = append(seeds, // P-03, P-04
		fragment4(6, 0, true, 1, syn[:8]), fragment4(6, 1, false, 1, syn[8:]), fragment4(6, 0, true, 2, syn),
		fragment6(6, 0, true, 1, syn[:8]), fragment6(6, 1, false, 1, syn[8:]), fragment6(6, 0, false, 2, syn))
	for _, h := range []byte{0, 43, 44, 50, 51, 59, 60} { // P-06
		seeds = append(seeds, chain([]byte{h}, []byte{0}, 6, syn), chain([]byte{h, h}, []byte{0, 255}, 6, syn))
	}
	for ihl := byte(0); ihl < 16; ihl++ { // P-07
		b := ip(at4(nLaptop), at4(nSTT), 6, append(make([]byte, 40), syn...))
		b[0] = 0x40 | ihl
		seeds = append(seeds, b)
	}
	for _, proto := range []byte{0, 2, 4, 41, 47, 58, 132, 255} { // P-08
		seeds = append(seeds, ip(at4(nLaptop), at4(nSTT), proto, syn), ip(at6(nLaptop), at6(nSTT), proto, syn))
	}
	for _, flags := range fuzzFlags { // P-09, P-10
		seeds = append(seeds, tcp(false, nLaptop, nSTT, 40000, 443, flags, ""), tcp(true, nLaptop, nDesk, 40000, 22, flags, "x"))
	}
	for _, v6 := range []bool{false, true} {
		for typ := range 20 { // P-11
			seeds = append(seeds,
				ip(at(v6, nSTT), at(v6, nLaptop), 1, icmpHeader(byte(typ), 0, 1280, tcp(v6, nLaptop, nSTT, 40000, 443, FlagACK, ""))),
				ip(at(v6, nSTT), at(v6, nLaptop), 1, icmpHeader(byte(typ+125), 0, 1280, make([]byte, 24))))
		}
		seeds = append(seeds, ping(v6, nLaptop, nSTT, 1), pong(v6, nLaptop, nSTT, 1), ping(v6, nGuest, nDesk, 1)) // P-12
		seeds = append(seeds, udp(v6, nLaptop, nDesk, 40000, 9000), udp(v6, nDesk, nLaptop, 9000, 40000))         // P-14, P-16
	}
	mapped := tcp(true, nLaptop, nSTT, 40000, 443, FlagSYN, "") // P-15
	copy(mapped[24:], append(append(make([]byte, 10), 0xff, 0xff), at4(nSTT).AsSlice()...))
	seeds = append(seeds, mapped)
	for i, b := range seeds {
		if len(b) > 255 {
			seeds[i] = b[:255]
		}
	}
	return append(seeds, []byte{}, []byte(strings.Repeat("\x45", 60)), []byte(strings.Repeat("\x60", 60)))
}
