package services

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strconv"
	"testing"
	"testing/synctest"
	"time"
)

func take(t testing.TB, m Limiter, key string, rates ...Rate) Allowance {
	t.Helper()
	a, err := m.Take(context.Background(), key, rates...)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func TestMemoryLimiterCountsExactly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, rate := NewMemoryLimiter(nil), Rate{200, time.Minute}
		for i := range 200 {
			if a := take(t, m, "peer:p1", rate); !a.Allowed || a.Remaining != 199-i || a.Limit != rate {
				t.Fatalf("event %d: %+v", i+1, a)
			}
		}
		a := take(t, m, "peer:p1", rate)
		if a.Allowed || a.Remaining != 0 || a.Retry <= 0 || a.Retry > 61*time.Second || a.Reset < a.Retry {
			t.Fatalf("event 201: %+v", a)
		}
		if b := take(t, m, "peer:p2", rate); !b.Allowed {
			t.Fatal("one peer's events count for another")
		}
		time.Sleep(a.Retry - time.Nanosecond)
		if b := take(t, m, "peer:p1", rate); b.Allowed || b.Retry != time.Nanosecond {
			t.Fatalf("a moment early: %+v", b)
		}
		time.Sleep(time.Nanosecond)
		if b := take(t, m, "peer:p1", rate); !b.Allowed || b.Remaining != 199 {
			t.Fatalf("when it said: %+v", b)
		}
	})
}

// However the events fall, no stretch of time of the rate's length has more of
// them than the rate allows.
func TestMemoryLimiterNeverLetsMoreThrough(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rng := rand.New(rand.NewPCG(1, 2))
		m, rate := NewMemoryLimiter(nil), Rate{20, 7 * time.Second}
		var let []time.Time
		for range 20_000 {
			if rng.IntN(10) == 0 {
				time.Sleep(time.Duration(rng.Int64N(int64(3 * time.Second))))
			}
			time.Sleep(time.Duration(rng.Int64N(int64(50 * time.Millisecond))))
			if take(t, m, "k", rate).Allowed {
				let = append(let, time.Now())
			}
		}
		for i := range len(let) - rate.Events {
			if d := let[i+rate.Events].Sub(let[i]); d < rate.Per {
				t.Fatalf("%d events in %v", rate.Events+1, d)
			}
		}
		if len(let) < 1000 {
			t.Fatalf("only %d events let through", len(let))
		}
	})
}

// What one rate refuses counts against no other.
func TestRefusedEventCountsAgainstNone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, minute, hour := NewMemoryLimiter(nil), Rate{2, time.Minute}, Rate{5, time.Hour}
		for i := range 4 {
			for range 2 {
				take(t, m, "k", minute, hour)
			}
			for range 50 {
				if a := take(t, m, "k", minute, hour); a.Allowed && i < 2 {
					t.Fatalf("round %d: allowed", i)
				}
			}
			time.Sleep(61 * time.Second)
		}
		// 2 + 2 + 1 were let through.
		a := take(t, m, "k", minute, hour)
		if a.Allowed || a.Limit != hour {
			t.Fatalf("%+v", a)
		}
		time.Sleep(a.Retry)
		if a := take(t, m, "k", minute, hour); !a.Allowed {
			t.Fatalf("an hour later: %+v", a)
		}
	})
}

func TestMemoryLimiterIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, rate := NewMemoryLimiter(nil), Rate{1, time.Minute}
		for i := range MaxLimitKeys {
			take(t, m, strconv.Itoa(i), rate)
		}
		if _, err := m.Take(context.Background(), "one more", rate); err == nil {
			t.Fatal("there is no end of keys")
		}
		if a := take(t, m, "0", rate); a.Allowed {
			t.Fatal("forgot a key that was used up")
		}
		time.Sleep(2 * time.Minute)
		take(t, m, "one more", rate)
		if n := len(m.windows); n != 1 {
			t.Fatalf("%d keys kept after their time", n)
		}
	})
	m := NewMemoryLimiter(nil)
	for name, f := range map[string]func() (Allowance, error){
		"no rate": func() (Allowance, error) { return m.Take(context.Background(), "k") },
		"no key":  func() (Allowance, error) { return m.Take(context.Background(), "", Rate{1, time.Second}) },
		"long key": func() (Allowance, error) {
			return m.Take(context.Background(), fmt.Sprintf("%129d", 1), Rate{1, time.Second})
		},
		"zero rate": func() (Allowance, error) { return m.Take(context.Background(), "k", Rate{}) },
	} {
		if a, err := f(); err == nil || a.Allowed {
			t.Errorf("%s: %+v", name, a)
		}
	}
}

func TestMemoryLimiterAgainstAClockSetBack(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	m := NewMemoryLimiter(func() time.Time { return now })
	rate := Rate{1, time.Minute}
	take(t, m, "k", rate)
	now = now.Add(-time.Hour)
	if take(t, m, "k", rate).Allowed {
		t.Error("an hour back gave the event back")
	}
	now = now.Add(time.Hour + 62*time.Second)
	if !take(t, m, "k", rate).Allowed {
		t.Error("refused after its minute")
	}
}

func TestGateCountsMachinesAndPeople(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newGated(t)
		ann := k.from(peerAt(1, "10.77.1.1"), "/", "Authorization: Bearer ann-token")
		talk := Requirement{Any: []Credential{AsUser}, Rate: Talk}
		admit := func(r *http.Request, need Requirement) (http.Header, error) {
			_, _, limits, done, err := k.Admit(r, "GET /", need, nil)
			if err == nil {
				done(200)
			}
			return limits, err
		}
		for i := range 30 {
			limits, err := admit(ann, talk)
			if err != nil || limits.Get("RateLimit-Limit") != "30" || limits.Get("RateLimit-Remaining") != strconv.Itoa(29-i) || limits.Get("RateLimit-Reset") == "" {
				t.Fatalf("%d: %v %v", i, limits, err)
			}
		}
		limits, err := admit(ann, talk)
		why, _ := err.(*Refusal)
		if why == nil || why.Status != 429 || why.Retry < time.Second || limits.Get("RateLimit-Remaining") != "0" {
			t.Fatalf("31st: %+v %v", why, limits)
		}
		// Asking is not talking.
		for i := range 170 {
			if _, err := admit(ann, any1(AsUser)); err != nil {
				t.Fatal(i, err)
			}
		}
		if _, err := admit(ann, any1(AsUser)); err == nil {
			t.Fatal("201 requests in a minute")
		}
		asked := k.desk.asked
		for range 1000 {
			if _, err := admit(ann, any1(AsUser)); err == nil {
				t.Fatal("a flood got through")
			}
		}
		if k.desk.asked != asked {
			t.Error("a flood is looked up")
		}
		if _, err := admit(k.from(peerAt(2, "10.77.1.2"), "/", "Authorization: Bearer bob-token"), any1(AsUser)); err != nil {
			t.Errorf("the other machine pays for it: %v", err)
		}
	})
}

// A person's machines do not add up.
func TestGateCountsAPersonOnAllMachines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newGated(t)
		two := peerAt(2, "10.77.1.2")
		k.desk.users["ann-phone"] = k.desk.users["ann-token"]
		s := k.desk.sessions["ann-token"]
		s.ID, s.Peer, s.Key = "s3", two.ID, two.PublicKey
		k.desk.sessions["ann-phone"] = s
		for range 200 {
			if _, why := k.try(k.from(peerAt(1, "10.77.1.1"), "/", "Authorization: Bearer ann-token"), any1(AsUser), ""); why != nil {
				t.Fatal(why)
			}
		}
		if _, why := k.try(k.from(two, "/", "Authorization: Bearer ann-phone"), any1(AsUser), ""); why == nil || why.Status != 429 {
			t.Errorf("%+v", why)
		}
		if _, why := k.try(k.from(two, "/", "Authorization: Bearer bob-token"), any1(AsUser), ""); why != nil {
			t.Errorf("another person there: %v", why)
		}
	})
}
