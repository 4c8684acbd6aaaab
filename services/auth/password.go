package auth

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"runtime/debug"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"golang.org/x/crypto/argon2"
	"golang.org/x/crypto/bcrypt"

	"github.com/warrenmesh/warren/peer/account"
	"github.com/warrenmesh/warren/services"
)

// The length of a password, in characters.
const (
	MinPassword = 8
	MaxPassword = 255
)

// PasswordParams is what a password hash costs. Zero fields are the default:
// Argon2id with 64 MiB, three passes and four lanes, which RFC 9106, section 4
// recommends second, where memory is scarce; two hashes at once, sixteen more
// waiting.
type PasswordParams struct {
	Memory  uint32 // KiB
	Passes  uint32
	Lanes   uint8
	AtOnce  int // hashes at one moment
	Waiting int // hashes that wait for their turn
}

const (
	saltSize = 16 // bytes (RFC 9106, section 3.1)
	hashSize = 32
	// What is accepted of a stored hash: an imported one must not be a bomb.
	maxMemory = 256 << 10 // KiB
	maxPasses = 16
	maxLanes  = 16
	maxCost   = 14 // of bcrypt: about a second
	// bigHash is from when on the memory of a hash is given back at once, KiB.
	bigHash = 16 << 10
)

func (p PasswordParams) orDefault() PasswordParams {
	if p.Memory == 0 {
		p.Memory = 64 << 10
	}
	if p.Passes == 0 {
		p.Passes = 3
	}
	if p.Lanes == 0 {
		p.Lanes = 4
	}
	if p.AtOnce <= 0 {
		p.AtOnce = 2
	}
	if p.Waiting <= 0 {
		p.Waiting = 16
	}
	return p
}

// hasher hashes and compares passwords, a few at once.
type hasher struct {
	params PasswordParams
	queue  chan struct{} // who is computing or waiting
	slots  chan struct{} // who is computing
	dummy  string        // the hash that nobody has the password of
	done   atomic.Int64  // hashes computed, of any kind
	peak   atomic.Int64  // the most at one moment
	now    atomic.Int64  // at this moment
}

func newHasher(p PasswordParams) (*hasher, error) {
	p = p.orDefault()
	if p.Memory > maxMemory || p.Passes > maxPasses || p.Lanes > maxLanes || p.Memory < 8*uint32(p.Lanes) {
		return nil, fmt.Errorf("password hashes of %d KiB, %d passes, %d lanes: %w", p.Memory, p.Passes, p.Lanes, account.ErrInvalid)
	}
	h := &hasher{params: p, queue: make(chan struct{}, p.AtOnce+p.Waiting), slots: make(chan struct{}, p.AtOnce)}
	salt, sum := make([]byte, saltSize), make([]byte, hashSize)
	_, _ = rand.Read(salt) // never fails: it ends the program instead
	_, _ = rand.Read(sum)
	h.dummy = h.encode(salt, sum)
	return h, nil
}

// turn is the right to compute hashes, one after another, until end.
type turn struct{ h *hasher }

// turn waits for one. When too many wait already it is a refusal at once: the
// answer to a flood of sign-ins is not a growing queue.
func (h *hasher) turn(ctx context.Context) (*turn, error) {
	select {
	case h.queue <- struct{}{}:
	default:
		return nil, &services.Refusal{Status: http.StatusTooManyRequests, Detail: "Too many people are signing in at this moment; try again in a second.", Retry: time.Second}
	}
	select {
	case h.slots <- struct{}{}:
	case <-ctx.Done():
		<-h.queue
		return nil, fmt.Errorf("waiting to hash a password: %w", ctx.Err())
	}
	return &turn{h}, nil
}

func (t *turn) end() {
	<-t.h.slots
	<-t.h.queue
	// A hash takes as much memory as all the rest of the hub several times
	// over, for a moment. It is not kept for the next one.
	if len(t.h.slots) == 0 && t.h.params.Memory >= bigHash {
		debug.FreeOSMemory()
	}
}

// count notes a hash that is computed until the function it returns is called.
func (t *turn) count() func() {
	t.h.done.Add(1)
	running := t.h.now.Add(1)
	for peak := t.h.peak.Load(); running > peak && !t.h.peak.CompareAndSwap(peak, running); {
		peak = t.h.peak.Load()
	}
	return func() { t.h.now.Add(-1) }
}

// hash returns the PHC string of a password with a fresh salt.
func (t *turn) hash(password string) string {
	defer t.count()()
	p := t.h.params
	salt := make([]byte, saltSize)
	_, _ = rand.Read(salt) // never fails: it ends the program instead
	return t.h.encode(salt, argon2.IDKey([]byte(password), salt, p.Passes, p.Memory, p.Lanes, hashSize))
}

// encode is the PHC string format.
func (h *hasher) encode(salt, sum []byte) string {
	p, b64 := h.params, base64.RawStdEncoding.EncodeToString
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version, p.Memory, p.Passes, p.Lanes, b64(salt), b64(sum))
}

// verify compares a password with what is stored. stale says that it matched
// and should be hashed anew. Who has no hash is compared with one that nobody
// has the password of, at the same cost.
func (t *turn) verify(encoded, password string) (ok, stale bool, err error) {
	if encoded == "" {
		_, _, err := t.verify(t.h.dummy, password)
		return false, false, err
	}
	if isBcrypt(encoded) {
		return t.verifyBcrypt(encoded, password)
	}
	f, err := parseArgon2(encoded)
	if err != nil {
		return false, false, err
	}
	defer t.count()()
	sum := argon2.IDKey([]byte(password), f.salt, f.passes, f.memory, f.lanes, uint32(len(f.sum)))
	ok = subtle.ConstantTimeCompare(sum, f.sum) == 1
	p := t.h.params
	same := f.memory == p.Memory && f.passes == p.Passes && f.lanes == p.Lanes && len(f.sum) == hashSize
	return ok, ok && !same, nil
}

func (t *turn) verifyBcrypt(encoded, password string) (ok, stale bool, err error) {
	if err := checkBcrypt(encoded); err != nil {
		return false, false, err
	}
	defer t.count()()
	switch err := bcrypt.CompareHashAndPassword([]byte(encoded), []byte(password)); {
	case err == nil:
		return true, true, nil
	case errors.Is(err, bcrypt.ErrMismatchedHashAndPassword):
		return false, false, nil
	}
	return false, false, errStoredHash
}

// The hash itself is never part of an error.
var errStoredHash = fmt.Errorf("a stored password is neither Argon2id nor bcrypt within the limits: %w", account.ErrInvalid)

func isBcrypt(encoded string) bool { return strings.HasPrefix(encoded, "$2") }

var bcryptForm = regexp.MustCompile(`^\$2[aby]\$(0[4-9]|[12][0-9]|3[01])\$[./A-Za-z0-9]{53}$`)

func checkBcrypt(encoded string) error {
	if !bcryptForm.MatchString(encoded) {
		return errStoredHash
	}
	cost, err := bcrypt.Cost([]byte(encoded))
	if err != nil || cost > maxCost {
		return errStoredHash
	}
	return nil
}

// CheckHash says whether a password hash of an imported account is one that
// signing in can work with.
func CheckHash(encoded string) error {
	if isBcrypt(encoded) {
		return checkBcrypt(encoded)
	}
	_, err := parseArgon2(encoded)
	return err
}

type argon2Form struct {
	memory, passes uint32
	lanes          uint8
	salt, sum      []byte
}

var argon2Params = regexp.MustCompile(`^m=([1-9][0-9]{0,8}),t=([1-9][0-9]{0,3}),p=([1-9][0-9]{0,2})$`)

// parseArgon2 reads the PHC string format: $argon2id$v=19$m=,t=,p=$salt$hash.
func parseArgon2(encoded string) (argon2Form, error) {
	parts := strings.Split(encoded, "$")
	if len(parts) != 6 || parts[0] != "" || parts[1] != "argon2id" || parts[2] != "v="+strconv.Itoa(argon2.Version) {
		return argon2Form{}, errStoredHash
	}
	m := argon2Params.FindStringSubmatch(parts[3])
	if m == nil {
		return argon2Form{}, errStoredHash
	}
	memory, err1 := strconv.ParseUint(m[1], 10, 32)
	passes, err2 := strconv.ParseUint(m[2], 10, 32)
	lanes, err3 := strconv.ParseUint(m[3], 10, 8)
	b64 := base64.RawStdEncoding.Strict()
	salt, err4 := b64.DecodeString(parts[4])
	sum, err5 := b64.DecodeString(parts[5])
	if errors.Join(err1, err2, err3, err4, err5) != nil || memory > maxMemory || passes > maxPasses || lanes > maxLanes ||
		memory < 8*lanes || len(salt) < 8 || len(salt) > 64 || len(sum) < 16 || len(sum) > 64 {
		return argon2Form{}, errStoredHash
	}
	return argon2Form{uint32(memory), uint32(passes), uint8(lanes), salt, sum}, nil
}

// CheckPassword says whether somebody may choose a password: MinPassword to
// MaxPassword characters of UTF-8. There are no rules about which (NIST SP
// 800-63B, section 5.1.1.2).
func CheckPassword(password string) error {
	if n := utf8.RuneCountInString(password); !utf8.ValidString(password) || n < MinPassword || n > MaxPassword {
		return fmt.Errorf("a password has %d to %d characters: %w", MinPassword, MaxPassword, account.ErrInvalid)
	}
	return nil
}

// hashPassword hashes a password that somebody chose.
func (s *Service) hashPassword(ctx context.Context, password string) (string, error) {
	if err := CheckPassword(password); err != nil {
		return "", err
	}
	t, err := s.hasher.turn(ctx)
	if err != nil {
		return "", err
	}
	defer t.end()
	return t.hash(password), nil
}
