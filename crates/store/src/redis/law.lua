-- The law of one limit key, as a sidecar moved it: core::fleet::Ledger::set_law, next to the data.
--
-- KEYS[1]  the key's ledger
-- ARGV[1]  version that it was made of, 0: none; ARGV[2] its version; ARGV[3] its epoch
-- ARGV[4]  after how many ms without a call nobody misses it; ARGV[5] revision of the policy by which it was made
-- then for each window: p, v, q, u, den (0 or 1), br, limit
--
-- Answers 1, or 0 where another one was written meanwhile, this one is not newer, or it was made by an older policy: then nothing
-- changes.

local WINDOWS, NUMBERS = 3, 7

local stored = redis.call('HGET', KEYS[1], 'law')
local known = stored and cmsgpack.unpack(stored)
local before = known and known[1] or 0
local version, policy = tonumber(ARGV[2]), tonumber(ARGV[5])
if before ~= tonumber(ARGV[1]) or version <= before or policy < (known and known[7] or 0) then
  return 0
end
local clock = redis.call('TIME')
local now = tonumber(clock[1]) * 1000 + math.floor(tonumber(clock[2]) / 1000)
local law = { version, tonumber(ARGV[3]), now + tonumber(ARGV[4]) }
for window = 1, WINDOWS do
  local state = {}
  for index = 1, NUMBERS do
    state[index] = tonumber(ARGV[5 + (window - 1) * NUMBERS + index])
  end
  law[3 + window] = state
end
law[7] = policy
redis.call('HSET', KEYS[1], 'law', cmsgpack.pack(law))
-- As long as a ledger stays that has no law, or longer.
redis.call('PEXPIRE', KEYS[1], math.max(300000, tonumber(ARGV[4])))
return 1
