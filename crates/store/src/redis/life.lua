-- Which life the data of a slot are in; begins another one where there is none, or where they were lost.
--
-- KEYS[1]  where that is written: life, when it began (ms), run id of the server then
-- ARGV[1]  run id of the server, as far as it is known, else empty
-- ARGV[2]  a new life, as it is named
-- ARGV[3]  a life of which the data were found lost, else empty
--
-- A life that begins later than now is over, too: the clock went back, and nothing would be granted until it is there again.
--
-- Answers the life, and for how long it has been one, ms.

local clock = redis.call('TIME')
local now = tonumber(clock[1]) * 1000 + math.floor(tonumber(clock[2]) / 1000)
local life, born, run = string.match(redis.call('GET', KEYS[1]) or '', '^(%x+) (%d+) (%w*)$')
if life and life ~= ARGV[3] and (run == ARGV[1] or ARGV[1] == '') and tonumber(born) <= now then
  return { life, now - tonumber(born) }
end
redis.call('SET', KEYS[1], ARGV[2] .. ' ' .. string.format('%.0f', now) .. ' ' .. ARGV[1])
return { ARGV[2], 0 }
