-- One sidecar reports on one limit key, and is granted what can be: core::fleet::Ledger::report, next to the data.
--
-- KEYS[1]  the key's ledger, a hash: `now`, `law`, and a field for each sidecar
-- KEYS[2]  the life of the data of its slot, and when that began, ms
-- ARGV[1]  the life that the sidecar knows; ARGV[2] incarnation, both as they are named
-- ARGV[3]  sequence; ARGV[4] the last one acknowledged, or 0
-- ARGV[5]  phase of the key, s; ARGV[6] length of the lease, ms, at most MOST_LEASE_MS
-- ARGV[7]  1: it goes on wanting what it is not granted, else 0
-- ARGV[8..10]  wanted, of each window; ARGV[11..13] the least of what requests ask for that wait, or 0
-- ARGV[14..25]  of each window: settled, of these arrived before, denied (0 or 1), pressure
-- then for each window: how many pairs follow, and pairs (in how many seconds, tokens)
--
-- Answers -1 alone where data were lost, else: version of the law (0: none), ms that the lease runs, epoch of now, epoch of the
-- law, revision of the policy by which it was made; for each window: allotted, elsewhere, waiting, and
-- in how many ms the least is free, or 0; and for each window: p, v, q, u, den, br, limit. All integers; each stays
-- below 2^53, as numbers are doubles here.

local UNREPORTED_MS = 60000
local MOST_LEASE_MS = 60000
local MOST_AHEAD = 120
local SILENCE_MS = 5000
local EPOCH_SECONDS = 60
local FREES_STEP_MS = 100
local WINDOWS = 3

local key = KEYS[1]
local incarnation = ARGV[2]

local life, born = string.match(redis.call('GET', KEYS[2]) or '', '^(%x+) (%d+)')
if life ~= ARGV[1] then
  return { -1 }
end

local clock = redis.call('TIME')
local now = tonumber(clock[1]) * 1000 + math.floor(tonumber(clock[2]) / 1000)

local stored = redis.call('HGETALL', key)
local law, sidecars = nil, {}
for index = 1, #stored, 2 do
  local field, value = stored[index], stored[index + 1]
  if field == 'now' then
    -- The time of a key never goes back.
    now = math.max(now, tonumber(value))
  elseif field == 'law' then
    law = cmsgpack.unpack(value)
  else
    sidecars[field] = cmsgpack.unpack(value)
  end
end

-- A sidecar is { sequence, end of its lease, share, share, share, settled }; a share { need, granted, missing, until, tokens, ... };
-- the law { version, epoch, when it may be forgotten, state, state, state, revision of the policy }, a state { p, v, q, u, den, br, limit }.
local NEED, GRANTED, MISSING, LEAVING = 1, 2, 3, 4
local U, DEN, BR, LIMIT = 4, 5, 6, 7

local own = sidecars[incarnation]
if (own and own[1] or 0) < tonumber(ARGV[4]) then
  return { -1 }
end
local epoch = math.floor((math.floor(now / 1000) + tonumber(ARGV[5])) / EPOCH_SECONDS)
local is_current = law and law[2] >= epoch
local grants = is_current and now >= tonumber(born) + SILENCE_MS

local function limit_of(window)
  return grants and law[3 + window][LIMIT] or 0
end

local function counted(share, lease_ends)
  local allotted = share[NEED] + share[GRANTED]
  if now < lease_ends then
    return allotted
  end
  local reported, stayed = 0, 0
  for index = LEAVING, #share, 2 do
    if share[index] > now then
      reported = reported + share[index + 1]
    end
    if share[index] >= lease_ends + 1000 then
      stayed = stayed + share[index + 1]
    end
  end
  if now < lease_ends + UNREPORTED_MS then
    -- What may have left by the end of the lease may have been used again; at no instant was it more than was allotted.
    return math.min(reported + allotted - stayed, allotted)
  end
  return reported
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

own = sidecars[incarnation] or { 0, 0, { 0, 0, 0 }, { 0, 0, 0 }, { 0, 0, 0 } }
if tonumber(ARGV[3]) > own[1] then
  own[1] = tonumber(ARGV[3])
  -- Never sooner than the lease before: who asks decides by that one until the answer is there, and it may be lost.
  own[2] = math.max(own[2], now + math.min(tonumber(ARGV[6]), MOST_LEASE_MS))
  local argument = 14 + 4 * WINDOWS
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
    local free = math.max(limit_of(window) - elsewhere[window] - need, 0)
    local wanted = tonumber(ARGV[7 + window])
    share[NEED] = need
    share[GRANTED] = math.min(wanted, math.floor(free / (waiting[window] + 1)))
    share[MISSING] = ARGV[7] == '1' and wanted - share[GRANTED] or 0
    own[2 + window] = share
  end
  if is_current then
    local settled = {}
    for window = 1, WINDOWS do
      local first = 13 + (window - 1) * 4
      local before = own[6] and own[6][window] or tonumber(ARGV[first + 2])
      local state, all = law[3 + window], tonumber(ARGV[first + 1])
      state[U] = state[U] + math.max(all - before, 0)
      state[DEN] = math.max(state[DEN], tonumber(ARGV[first + 3]))
      state[BR] = math.max(state[BR], tonumber(ARGV[first + 4]))
      settled[window] = math.max(before, all)
    end
    own[6] = settled
    redis.call('HSET', key, 'law', cmsgpack.pack(law))
  end
  redis.call('HSET', key, incarnation, cmsgpack.pack(own))
end
redis.call('HSET', key, 'now', now)
-- Of the sidecars nothing counts for longer: a lease, and after it a minute, or the seconds that are looked ahead.
redis.call('PEXPIRE', key, math.max(300000, law and law[3] - now or 0))

-- In how many ms so much is free, if nobody comes to count more: by what all have said leaves when.
local function frees(window, least)
  if least == 0 then
    return 0
  end
  local leaves, left, last = {}, least, 0
  local function add(till, tokens)
    if till > now then
      local step = math.ceil((till - now) / FREES_STEP_MS)
      leaves[step] = (leaves[step] or 0) + tokens
      left, last = left + tokens, math.max(last, step)
    end
  end
  local function add_reported(share)
    local reported = 0
    for index = LEAVING, #share, 2 do
      add(share[index], share[index + 1])
      reported = reported + (share[index] > now and share[index + 1] or 0)
    end
    return reported
  end
  add_reported(own[2 + window])
  for name, sidecar in pairs(sidecars) do
    if name ~= incarnation then
      local lease_ends, share = sidecar[2], sidecar[2 + window]
      local reported = add_reported(share)
      if lease_ends <= now then
        -- What a lease that runs has on top is given back where it is not used.
        add(lease_ends + UNREPORTED_MS, counted(share, lease_ends) - reported)
      end
    end
  end
  for step = 0, last do
    left = left - (leaves[step] or 0)
    if left <= limit_of(window) then
      return step * FREES_STEP_MS
    end
  end
  return 0
end

local answer = { law and law[1] or 0, math.max(own[2] - now, 0), epoch, law and law[2] or 0, law and law[7] or 0 }
for window = 1, WINDOWS do
  local share = own[2 + window]
  answer[#answer + 1] = share[NEED] + share[GRANTED]
  answer[#answer + 1] = elsewhere[window]
  answer[#answer + 1] = waiting[window]
  answer[#answer + 1] = frees(window, tonumber(ARGV[10 + window]))
end
for window = 1, WINDOWS do
  for index = 1, LIMIT do
    answer[#answer + 1] = law and law[3 + window][index] or 0
  end
end
return answer
