-- One sidecar reports on one limit key, and is granted what can be: core::fleet::Ledger::report, next to the data.
--
-- KEYS[1]  the key's ledger, a hash: `now`, `version`, `limits`, and a field for each sidecar
-- ARGV[1]  incarnation, as it is named
-- ARGV[2]  sequence; ARGV[3] length of the lease, ms, at most MOST_LEASE_MS
-- ARGV[4..6]  wanted, of each window
-- then for each window: how many pairs follow, and pairs (in how many seconds, tokens)
--
-- Answers: version, ms that the lease runs, then for each window: allotted, elsewhere, waiting. All integers; each stays below
-- 2^53, as numbers are doubles here.

local UNREPORTED_MS = 60000
local MOST_LEASE_MS = 60000
local MOST_AHEAD = 120
local WINDOWS = 3

local key = KEYS[1]
local incarnation = ARGV[1]

local clock = redis.call('TIME')
local now = tonumber(clock[1]) * 1000 + math.floor(tonumber(clock[2]) / 1000)

local stored = redis.call('HGETALL', key)
local version, limits, sidecars = 0, nil, {}
for index = 1, #stored, 2 do
  local field, value = stored[index], stored[index + 1]
  if field == 'now' then
    -- The time of a key never goes back.
    now = math.max(now, tonumber(value))
  elseif field == 'version' then
    version = tonumber(value)
  elseif field == 'limits' then
    limits = cmsgpack.unpack(value)
  else
    sidecars[field] = cmsgpack.unpack(value)
  end
end

-- A sidecar is { sequence, end of its lease, share, share, share }; a share { need, granted, missing, until, tokens, ... }.
local NEED, GRANTED, MISSING, LEAVING = 1, 2, 3, 4

local function counted(share, lease_ends)
  if now < lease_ends then
    return share[NEED] + share[GRANTED]
  end
  local sum = 0
  if now < lease_ends + UNREPORTED_MS then
    sum = share[GRANTED]
  end
  for index = LEAVING, #share, 2 do
    if share[index] > now then
      sum = sum + share[index + 1]
    end
  end
  return sum
end

local elsewhere, waiting, over = { 0, 0, 0 }, { 0, 0, 0 }, {}
for name, sidecar in pairs(sidecars) do
  local lease_ends, all = sidecar[2], 0
  for window = 1, WINDOWS do
    local share = sidecar[2 + window]
    local counts = counted(share, lease_ends)
    all = all + counts
    if name ~= incarnation then
      elsewhere[window] = elsewhere[window] + counts
      if now < lease_ends and share[MISSING] > 0 then
        waiting[window] = waiting[window] + 1
      end
    end
  end
  if lease_ends + UNREPORTED_MS <= now and all == 0 then
    over[#over + 1] = name
  end
end
for _, name in ipairs(over) do
  sidecars[name] = nil
  redis.call('HDEL', key, name)
end

local own = sidecars[incarnation] or { 0, 0, { 0, 0, 0 }, { 0, 0, 0 }, { 0, 0, 0 } }
if tonumber(ARGV[2]) > own[1] then
  own[1] = tonumber(ARGV[2])
  own[2] = now + math.min(tonumber(ARGV[3]), MOST_LEASE_MS)
  local argument = 4 + WINDOWS
  for window = 1, WINDOWS do
    local share, need = { 0, 0, 0 }, 0
    local pairs_left = tonumber(ARGV[argument])
    argument = argument + 1
    for _ = 1, pairs_left do
      -- A second that has begun counts to its end: an instant in it is not known.
      local seconds = math.min(tonumber(ARGV[argument]), MOST_AHEAD)
      local tokens = tonumber(ARGV[argument + 1])
      share[#share + 1] = now + (seconds + 1) * 1000
      share[#share + 1] = tokens
      need = need + tokens
      argument = argument + 2
    end
    local limit = limits and limits[window] or 0
    local free = math.max(limit - elsewhere[window] - need, 0)
    local wanted = tonumber(ARGV[3 + window])
    share[NEED] = need
    share[GRANTED] = math.min(wanted, math.floor(free / (waiting[window] + 1)))
    share[MISSING] = wanted - share[GRANTED]
    own[2 + window] = share
  end
  redis.call('HSET', key, incarnation, cmsgpack.pack(own))
end
redis.call('HSET', key, 'now', now)
-- Nothing of it counts for longer: a lease, and after it a minute, or the seconds that are looked ahead.
redis.call('PEXPIRE', key, 300000)

local answer = { version, math.max(own[2] - now, 0) }
for window = 1, WINDOWS do
  local share = own[2 + window]
  answer[#answer + 1] = share[NEED] + share[GRANTED]
  answer[#answer + 1] = elsewhere[window]
  answer[#answer + 1] = waiting[window]
end
return answer
