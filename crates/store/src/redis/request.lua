-- What a request id stands for: who decides it, and then what was admitted.
--
-- KEYS[1]  the request id, of one limit key
-- ARGV[1]  what the caller has written there; ARGV[2] what is to be there now, '' for nothing; ARGV[3] for how long, ms
--
-- Answers what somebody else has written there, which stays; else nothing, and it is done.

local found = redis.call('GET', KEYS[1])
if found and found ~= ARGV[1] then
  return found
end
if ARGV[2] == '' then
  redis.call('DEL', KEYS[1])
else
  redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
end
return false
