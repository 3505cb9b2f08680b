-- Which sidecars there are.
--
-- KEYS[1]  a sorted set of them, by when they were seen last, ms
-- ARGV[1]  incarnation, as it is named; ARGV[2] for how long one that is not seen counts, ms; 0: it leaves
--
-- Answers how many there are.

local clock = redis.call('TIME')
local now = tonumber(clock[1]) * 1000 + math.floor(tonumber(clock[2]) / 1000)
local lasts = tonumber(ARGV[2])
if lasts > 0 then
  redis.call('ZADD', KEYS[1], now, ARGV[1])
  redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - lasts)
  redis.call('PEXPIRE', KEYS[1], 10 * lasts)
else
  redis.call('ZREM', KEYS[1], ARGV[1])
end
return redis.call('ZCARD', KEYS[1])
