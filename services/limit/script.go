package limit

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/warrenmesh/warren/services"
)

// script counts one event against all rates, or against none.
//
// KEYS are hashes, one for each rate: slot number to events. ARGV are, for each
// rate, how many events it allows, how long a slot is in microseconds, and how
// many slots count. The answer is: allowed, which rate is nearest to its end,
// how many events it has left, and the microseconds until it is whole and until
// the next event.
//
// Numbers stay below 2^53, where Lua's are exact. Slots from the future, after
// the clock was set back, count: they give nothing away.
const script = `
local t = redis.call('TIME')
local now = tonumber(t[1]) * 1000000 + tonumber(t[2])
local rates, refused = {}, nil
for i = 1, #KEYS do
  local r = {events = tonumber(ARGV[3*i-2]), slot = tonumber(ARGV[3*i-1]), slots = tonumber(ARGV[3*i]), total = 0, old = {}}
  r.at = math.floor(now / r.slot)
  r.oldest, r.newest = r.at, nil
  local all = redis.call('HGETALL', KEYS[i])
  for j = 1, #all, 2 do
    local s, n = tonumber(all[j]), tonumber(all[j+1])
    if s < r.at - r.slots then
      r.old[#r.old+1] = all[j]
    else
      r.total = r.total + n
      if s < r.oldest then r.oldest = s end
      if not r.newest or s > r.newest then r.newest = s end
    end
  end
  rates[i] = r
  if r.total >= r.events then
    local retry = (r.oldest + r.slots + 1) * r.slot - now
    if not refused or retry > refused[5] then
      refused = {0, i - 1, 0, ((r.newest or r.at) + r.slots + 1) * r.slot - now, retry}
    end
  end
end
if refused then return refused end
local best = nil
for i, r in ipairs(rates) do
  redis.call('HINCRBY', KEYS[i], r.at, 1)
  if #r.old > 0 then redis.call('HDEL', KEYS[i], unpack(r.old)) end
  redis.call('PEXPIRE', KEYS[i], math.ceil((r.slots + 2) * r.slot / 1000))
  local left = r.events - r.total - 1
  if not best or left < best[3] then
    local newest = r.at
    if r.newest and r.newest > newest then newest = r.newest end
    local retry = 0
    if left == 0 then retry = (r.oldest + r.slots + 1) * r.slot - now end
    best = {1, i - 1, left, (newest + r.slots + 1) * r.slot - now, retry}
  end
end
return best
`

// ask runs the script. Any answer but one of its own is an error.
func (l *Limiter) ask(ctx context.Context, key string, rates []services.Rate) (services.Allowance, error) {
	ctx, cancel := context.WithTimeout(ctx, answer)
	defer cancel()
	keys := make([]string, len(rates))
	args := make([]any, 0, 3*len(rates))
	for i, r := range rates {
		// The braces keep a caller's keys on one node of a cluster.
		keys[i] = "warren:limit:{" + key + "}:" + strconv.Itoa(r.Events) + ":" + strconv.FormatInt(int64(r.Per), 10)
		slot := (r.Slot() + time.Microsecond - 1) / time.Microsecond
		args = append(args, r.Events, int64(slot), services.Slots)
	}
	got, err := l.script.Run(ctx, l.client, keys, args...).Int64Slice()
	if err != nil {
		return services.Allowance{}, fmt.Errorf("asking Redis: %w", err)
	}
	if len(got) != 5 || got[1] < 0 || got[1] >= int64(len(rates)) {
		return services.Allowance{}, fmt.Errorf("asking Redis: an answer of %d numbers that makes no sense", len(got))
	}
	return services.Allowance{
		Allowed: got[0] == 1, Limit: rates[got[1]], Remaining: int(got[2]),
		Reset: time.Duration(got[3]) * time.Microsecond, Retry: time.Duration(got[4]) * time.Microsecond,
	}, nil
}
