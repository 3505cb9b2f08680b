-- Writes the policy of a fleet, and the records of the writes that made it, in one step.
--
-- KEYS[1]  the policy, a hash: `stamp`, and its records by their places
-- KEYS[2]  the audit log, a list of records, the oldest first
-- ARGV[1]  the stamp that the writer knows, empty where it knows of none; ARGV[2] the stamp that this makes
-- ARGV[3]  1: in the place of all that is there; 0: on top of it
-- ARGV[4]  most records of the log that are kept
-- then three lists, each with its length before it: places and records, one after the other; places to be emptied; records of
-- the log
--
-- Answers the stamp that is there now: ARGV[2], or another one where somebody else was first and nothing changed.

local stored = redis.call('HGET', KEYS[1], 'stamp') or ''
if stored ~= ARGV[1] then
  return stored
end
if ARGV[3] == '1' then
  redis.call('DEL', KEYS[1], KEYS[2])
end
redis.call('HSET', KEYS[1], 'stamp', ARGV[2])
local at = 5
for _ = 1, tonumber(ARGV[at]) / 2 do
  redis.call('HSET', KEYS[1], ARGV[at + 1], ARGV[at + 2])
  at = at + 2
end
at = at + 1
for _ = 1, tonumber(ARGV[at]) do
  redis.call('HDEL', KEYS[1], ARGV[at + 1])
  at = at + 1
end
at = at + 1
for _ = 1, tonumber(ARGV[at]) do
  redis.call('RPUSH', KEYS[2], ARGV[at + 1])
  at = at + 1
end
redis.call('LTRIM', KEYS[2], -tonumber(ARGV[4]), -1)
return ARGV[2]
