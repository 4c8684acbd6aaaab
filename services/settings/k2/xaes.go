package k2

import (
	"crypto/aes"
	"crypto/cipher"
	"fmt"
)

// sealer returns the cipher that a nonce asks for and the nonce that it takes.
func (k Key) sealer(nonce []byte) (cipher.AEAD, []byte, error) {
	switch len(nonce) {
	case plainSize:
		a, err := gcm(k.secret[:])
		return a, nonce, err
	case longSize:
		derived, err := deriveXAES(k.secret[:], nonce[:plainSize])
		if err != nil {
			return nil, nil, err
		}
		a, err := gcm(derived)
		return a, nonce[plainSize:], err
	}
	return nil, nil, fmt.Errorf("the nonce has %d bytes, not %d or %d: %w", len(nonce), plainSize, longSize, ErrMalformed)
}

func gcm(key []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("preparing AES: %w", err)
	}
	return cipher.NewGCM(block)
}

// deriveXAES is the key derivation of XAES-256-GCM
// (c2sp.org/XAES-256-GCM): NIST SP 800-108r1 in counter mode with AES-CMAC.
// Both inputs are one whole block, so the CMAC is one encryption each.
func deriveXAES(key, nonce []byte) ([]byte, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("preparing AES: %w", err)
	}
	var k1 [aes.BlockSize]byte
	block.Encrypt(k1[:], k1[:])
	carry := byte(0)
	for i := len(k1) - 1; i >= 0; i-- {
		next := k1[i] >> 7
		k1[i] = k1[i]<<1 | carry
		carry = next
	}
	k1[len(k1)-1] ^= carry * 0x87
	out := make([]byte, 2*aes.BlockSize)
	for n := range 2 {
		m := out[n*aes.BlockSize : (n+1)*aes.BlockSize]
		copy(m, []byte{0, byte(n + 1), 'X', 0})
		copy(m[4:], nonce)
		for i := range m {
			m[i] ^= k1[i]
		}
		block.Encrypt(m, m)
	}
	return out, nil
}
