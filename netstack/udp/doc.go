// Package udp is the one place where Warren meets the outside network: the
// UDP socket that WireGuard's datagrams come and go through.
//
// A Bind is a conn.Bind of our own. The stock one cannot be made small, copies
// and allocates for every datagram, and hands whatever arrives to the device.
// This one reads coalesced super-datagrams where the kernel makes them (UDP
// GRO), sends them without copying (UDP GSO), keeps one endpoint value per
// remote address, replies from the address that was spoken to, and looks at
// each datagram before WireGuard does:
//
//   - the type and size must be one that WireGuard or the knock defines;
//   - a handshake initiation must carry a mac1 under our public key and then
//     fit the budget of its source (IPv4 /32, IPv6 /64);
//   - a response or a cookie must answer something that was sent;
//   - a data message is only looked at for its type and smallest size.
//
// Everything else is dropped and counted. A Bind answers nothing by itself,
// with two exceptions that are off unless asked for: with Config.Knocks a hub
// answers the knock, and with Config.Remote a spoke repeats an initiation that
// its hub answered with a cookie (retry.go).
//
// # Limits
//
// On Linux datagrams move in batches; elsewhere one at a time and without
// sticky source addresses. The checks stop strangers, not peers: somebody with
// the hub's public key and many addresses still reaches the device's own
// cookie mechanism, which is what that is for.
//
// # The knock
//
// WireGuard refuses a handshake initiation whose timestamp is not newer than
// the last one of that peer. A machine without a clock battery that boots in
// 1970 is refused until its clock is right, which it may need the tunnel for.
// So it asks the hub to call: the hub's initiation carries the hub's clock,
// and a machine that just booted has seen no newer one.
//
//	spoke                                                         hub
//	knock  type, box{spoke key, nonce, HMAC}, mac       148 B   ->
//	   <-  reply  type, nonce, cookie, HMAC                      68 B
//	proof  type, box{spoke key, nonce, cookie, HMAC}, mac 164 B ->
//	   <-  done   type, nonce, HMAC                              52 B
//
// The mac is BLAKE2s-128 keyed with a hash of the hub's public key. The box is
// sealed to the hub's static key (NaCl crypto_box_seal). Each HMAC is
// HMAC-SHA256 over type, nonce and cookie under its own key, derived with HKDF
// from the pre-shared key of the pair, salted with both public keys. The
// cookie is a MAC over spoke key, nonce, source address and port under a
// secret of the hub that changes every 30 s; it lives 30 to 60 s and costs the
// hub no memory.
//
// Why this opens nothing:
//
//   - Silence. Without the hub's public key the mac is wrong: one hash, no
//     answer. Without a peer's pre-shared key the HMAC is wrong: one
//     Diffie-Hellman on a goroutine of its own, behind the same per-source
//     budget as handshakes and one for all knocks together; no answer. Which
//     keys are peers cannot be learned.
//   - No amplification. Each answer is smaller than the datagram it answers,
//     and there is at most one.
//   - Replay. A captured knock fetches a cookie for the address that sent the
//     copy; using it takes an HMAC over that cookie, so it is of no use to
//     who cannot make one. A captured proof from another address fails, the
//     cookie being another's. From the same (forged) address it is known by
//     its nonce while the cookie lives, and dead after that: the hub does not
//     call twice.
//   - What it moves. An accepted knock sets the peer's endpoint to an address
//     at which somebody with the pre-shared key received a datagram in the
//     last minute, and makes the hub send one handshake initiation there. It
//     creates no session, carries no packet and is no login: the handshake
//     that follows proves everything again. The next authenticated packet
//     moves the endpoint to where the peer really is, as ever.
//   - What a thief of the pre-shared key alone gains: that much and no more.
//     He cannot finish the handshake without the private key.
//   - Removed peers are looked up at each step and are strangers at once.
//
// What it costs: somebody who records the traffic and later steals the hub's
// private key learns which peer knocked. WireGuard's initiation has the same
// property (whitepaper, section 5.4.2).
package udp
