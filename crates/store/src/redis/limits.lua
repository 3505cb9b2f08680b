-- The limits of one limit key: core::fleet::Ledger::set_limits, next to the data.
--
-- KEYS[1]  the key's ledger
-- ARGV[1]  version; ARGV[2..4]  the limit of each window
--
-- Answers 1, or 0 where the version is not newer than the one there is: then nothing changes.

local version = tonumber(ARGV[1])
if version <= tonumber(redis.call('HGET', KEYS[1], 'version') or 0) then
  return 0
end
local limits = { tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4]) }
redis.call('HSET', KEYS[1], 'version', version, 'limits', cmsgpack.pack(limits))
redis.call('PEXPIRE', KEYS[1], 300000)
return 1
