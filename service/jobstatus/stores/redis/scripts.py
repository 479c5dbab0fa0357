"""The scripts that run inside the servers: each changes or reads all keys that belong together, in one step.

All keys of a call have one hash tag. A server without free memory refuses a script before it has changed anything,
except for those that free memory (`allow-oom`).

Indexes and jobs change together, so a crash cannot separate them. Two other cases are repaired where they are found.
The server's TTL removes a job and leaves its index entries: `PURGE` removes them when they are due, and a new job of
the same id before that. An entry whose job was deleted by hand is removed by `DUE` and `PURGE` and skipped by `PAGE`. A
count of jobs is the size of an index.
"""

import hashlib
from collections.abc import Sequence
from typing import Final, NamedTuple

from jobstatus.stores.redis.cluster.connection import Word, pack
from jobstatus.stores.redis.cluster.router import ScriptLoading


class Script(NamedTuple):
    """A script and the SHA-1 that servers know it by."""

    text: str
    digest: str

    def call(self, keys: Sequence[Word], arguments: Sequence[Word]) -> bytes:
        """Encode the command that runs the script."""
        return pack("EVALSHA", self.digest, len(keys), *keys, *arguments)


def _script(text: str, flags: str = "") -> Script:
    whole = f"#!lua flags={flags}\n{text}"
    return Script(whole, hashlib.sha1(whole.encode(), usedforsecurity=False).hexdigest())


_COMMIT: Final = """
local states = {pending = KEYS[2], processing = KEYS[3], completed = KEYS[4], failed = KEYS[5]}
local lost, at = {}, 1
for number = 6, #KEYS do
  local key = KEYS[number]
  local id, replaces, state, score, created, ttl, count = unpack(ARGV, at, at + 6)
  local found = redis.call('HMGET', key, 'version', 'state')
  if (found[1] or '0') ~= replaces then
    lost[#lost + 1] = number - 6
  else
    if found[2] then
      redis.call('DEL', key)
      if found[2] ~= state then redis.call('ZREM', states[found[2]], id) end
    else
      for _, index in pairs(states) do redis.call('ZREM', index, id) end
    end
    if state == '' then
      redis.call('ZREM', KEYS[1], id)
    else
      redis.call('HSET', key, unpack(ARGV, at + 7, at + 6 + count))
      if ttl ~= '' then redis.call('PEXPIRE', key, ttl) end
      redis.call('ZADD', states[state], score, id)
      redis.call('ZADD', KEYS[1], created, id)
    end
  end
  at = at + 7 + count
end
return lost
"""

COMMIT: Final = _script(_COMMIT)
"""KEYS: `Bucket.indexes`, then the key of each job. ARGV for each job: id, the version it replaces, state ('' deletes),
score in the state's index, created_at_ms, TTL in ms or '', how many arguments follow, and those: field, value, ….
Returns the places (from 0) of the jobs that are at another version."""

REMOVE: Final = _script(_COMMIT, "allow-oom")
"""As COMMIT, for changes that all delete."""

DUE: Final = _script(
    """
local listed, prefix, now, limit = KEYS[1], ARGV[1], ARGV[2], tonumber(ARGV[3])
local due = {}
for _, index in ipairs({KEYS[2], KEYS[3]}) do
  local found = redis.call('ZRANGEBYSCORE', index, '-inf', now, 'WITHSCORES', 'LIMIT', 0, limit)
  for at = 1, #found, 2 do
    if redis.call('EXISTS', prefix .. found[at]) == 1 then
      due[#due + 1] = found[at + 1]
      due[#due + 1] = found[at]
    else
      redis.call('ZREM', index, found[at])
      redis.call('ZREM', listed, found[at])
    end
  end
end
return due
""",
    "allow-oom",
)
"""KEYS: `Bucket.indexes`. ARGV: the prefix of keys of jobs, now, limit. Returns due_at_ms and id, at most `limit`
for each state."""

PURGE: Final = _script(
    """
local listed, prefix, now, limit = KEYS[1], ARGV[1], ARGV[2], tonumber(ARGV[3])
local purged = 0
for _, index in ipairs({KEYS[4], KEYS[5]}) do
  local found = redis.call('ZRANGEBYSCORE', index, '-inf', now, 'LIMIT', 0, limit - purged)
  for _, id in ipairs(found) do
    redis.call('UNLINK', prefix .. id)
    redis.call('ZREM', index, id)
    redis.call('ZREM', listed, id)
  end
  purged = purged + #found
end
return purged
""",
    "allow-oom",
)
"""KEYS: `Bucket.indexes`. ARGV: the prefix of keys of jobs, now, limit. Returns how many jobs were removed."""

PAGE: Final = _script(
    """
local listed, prefix = KEYS[1], ARGV[1]
local from, before, least, now, state_list, request_type, owner, limit, scans, code = unpack(ARGV, 2, 11)
limit, scans = tonumber(limit), tonumber(scans)

local function is_before(one, other)
  for at = 1, math.min(#one, #other) do
    local left, right = string.byte(one, at), string.byte(other, at)
    if left ~= right then return left < right end
  end
  return #one < #other
end

local function has(text, part) return string.find(text, part, 1, true) end

local function fits(row)
  for at = 12, #ARGV do
    if not has(row, ARGV[at]) then return false end
  end
  if code == '' then return true end
  local error = cjson.decode(row).error
  return error ~= nil and has(error, code)
end

local function next_of_all()
  local first = 0
  if from ~= '' then
    first = redis.call('ZCOUNT', listed, '(' .. from, '+inf')
    local last = first + redis.call('ZCOUNT', listed, from, from)
    while first < last do
      local middle = math.floor((first + last) / 2)
      local id = redis.call('ZREVRANGE', listed, middle, middle)[1]
      if is_before(id, before) then last = middle else first = middle + 1 end
    end
  end
  return redis.call('ZREVRANGE', listed, first, first + scans - 1, 'WITHSCORES')
end

local function all_in(indexes)
  local jobs, found = {}, {}
  for _, index in ipairs(indexes) do
    for _, id in ipairs(redis.call('ZRANGE', index, 0, -1)) do
      local created = redis.call('HGET', prefix .. id, 'created_at_ms')
      if created and (from == '' or tonumber(created) < tonumber(from) or (created == from and is_before(id, before)))
      then
        jobs[#jobs + 1] = {created, id}
      end
    end
  end
  table.sort(jobs, function(one, other)
    if one[1] ~= other[1] then return tonumber(one[1]) > tonumber(other[1]) end
    return is_before(other[2], one[2])
  end)
  for _, job in ipairs(jobs) do
    found[#found + 1] = job[2]
    found[#found + 1] = job[1]
  end
  return found
end

local page, wanted, place = {}, {}, nil
local of_state, indexes, held = {pending = KEYS[2], processing = KEYS[3], completed = KEYS[4], failed = KEYS[5]}, {}, 0
for state in string.gmatch(state_list, '%a+') do
  wanted[state] = true
  indexes[#indexes + 1] = of_state[state]
  held = held + redis.call('ZCARD', of_state[state])
end
local found = #indexes > 0 and held <= scans and all_in(indexes) or next_of_all()
for at = 1, #found, 2 do
  local id, created = found[at], found[at + 1]
  if least ~= '' and tonumber(created) < tonumber(least) then return {page, false, false} end
  place = at
  local job = redis.call('HMGET', prefix .. id, 'state', 'request_type', 'virtual_key_id', 'expires_at_ms')
  if job[1] and (state_list == '' or wanted[job[1]])
    and (request_type == '' or job[2] == request_type)
    and (owner == '' or job[3] == owner)
    and not (job[4] and tonumber(job[4]) <= tonumber(now)) then
    local row = redis.call('HGET', prefix .. id, 'row')
    if row and fits(row) then
      page[#page + 1] = {created, id, row}
      if #page == limit then break end
    end
  end
end
if place == nil or (#found < 2 * scans and place == #found - 1) then return {page, false, false} end
return {page, found[place + 1], found[place]}
"""
)
"""A part of a listing. Where few jobs are in the states asked for, the indexes of these are read instead of that of
all jobs. KEYS: `Bucket.indexes`. ARGV: the prefix of keys of jobs; created_at_ms and id before which the
part begins, or '' and ''; the least created_at_ms or ''; now; states, request type and virtual key, or ''; how many
jobs it may return and scan; what the error must contain, or ''; and the texts that the row must contain. Returns the
jobs, as created_at_ms, id and row each, and the created_at_ms and id before which the next part begins, or nothing
where there is none."""

COUNT: Final = _script(
    """
local prefix, limit, from = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local created, leased

for _, id in ipairs(redis.call('ZRANGE', KEYS[2], 0, limit - 1)) do
  local at = tonumber(redis.call('HGET', prefix .. id, 'created_at_ms'))
  if at and (not created or at < created) then created = at end
end
for _, id in ipairs(redis.call('ZRANGE', KEYS[3], 0, limit - 1)) do
  local row = redis.call('HGET', prefix .. id, 'row')
  if row then
    local job = cjson.decode(row)
    local at = job.lease_ms and math.max(job.lease_expires_at_ms, from + job.lease_ms)
      or job.started_at_ms or job.created_at_ms
    if not leased or at < leased then leased = at end
  end
end

local function text(at) return at and string.format('%.0f', at) or false end
local count = {}
for place = 2, 5 do count[place - 1] = redis.call('ZCARD', KEYS[place]) end
return {count[1], count[2], count[3], count[4], text(created), text(leased)}
""",
    "no-writes",
)
"""KEYS: `Bucket.indexes`. ARGV: the prefix of keys of jobs, among how many jobs of a state to look for the oldest, from
when leases count. Returns how many jobs of each state there are, when the oldest pending one was created, and the
earliest end of a lease; nothing in place of a time where there is none."""

COUNT_TYPES: Final = _script(
    """
local prefix, first, last = ARGV[1], ARGV[2], ARGV[3]
local counts, found = {}, 0
for _, id in ipairs(redis.call('ZRANGE', KEYS[1], first, last)) do
  found = found + 1
  local request_type = redis.call('HGET', prefix .. id, 'request_type')
  if request_type then counts[request_type] = (counts[request_type] or 0) + 1 end
end
local reply = {found}
for request_type, count in pairs(counts) do
  reply[#reply + 1] = request_type
  reply[#reply + 1] = count
end
return reply
""",
    "no-writes",
)
"""KEYS: one of `Bucket.indexes`. ARGV: the prefix of keys of jobs, first and last place in the index. Returns how many
entries there are between them, and after that each request type with the number of its jobs."""

WORKER_SIGNS: Final = _script(
    """
local prefix, limit = ARGV[1], tonumber(ARGV[2])
local heard, on_time, unleased
unleased = 0
for _, id in ipairs(redis.call('ZREVRANGE', KEYS[3], 0, limit - 1)) do
  local row = redis.call('HGET', prefix .. id, 'row')
  if row then
    local job = cjson.decode(row)
    if type(job.lease_ms) == 'number' then
      local begun = job.lease_expires_at_ms - job.lease_ms
      local late = job.lease_expires_at_ms - math.floor(job.lease_ms * 3 / 5)
      if not heard or begun > heard then heard = begun end
      if not on_time or late > on_time then on_time = late end
    else
      unleased = unleased + 1
    end
  end
end
local function text(at) return at and string.format('%.0f', at) or false end
return {text(heard), text(on_time), unleased}
""",
    "no-writes",
)
"""KEYS: `Bucket.indexes`. ARGV: the prefix of keys of jobs, how many jobs to look at. Returns the values of a
WorkerSigns, with nothing in place of a time where there is none."""

CLAIM: Final = _script(
    """
local holder = redis.call('GET', KEYS[1])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if holder and holder ~= ARGV[1] then return {0, now} end
if ARGV[2] == '0' then
  redis.call('DEL', KEYS[1])
  return {0, now}
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return {1, now}
""",
    "allow-oom",
)
"""KEYS: the claim. ARGV: the holder, for how many ms (0 resigns). Returns whether the holder leads, and the
server's time in ms."""

PUT_VIRTUAL_KEY: Final = _script(
    """
local id, document, created = ARGV[1], ARGV[2], ARGV[3]
for at = 4, #ARGV do
  local owner = redis.call('HGET', KEYS[2], ARGV[at])
  if owner and owner ~= id then return false end
end
local old = redis.call('HGET', KEYS[1], id)
if old then
  for _, digest in ipairs(cjson.decode(old).key_sha256) do redis.call('HDEL', KEYS[2], digest) end
end
for at = 4, #ARGV do redis.call('HSET', KEYS[2], ARGV[at], id) end
redis.call('HSET', KEYS[1], id, document)
redis.call('HSETNX', KEYS[3], id, created)
redis.call('ZADD', KEYS[4], 0, id)
local time = redis.call('TIME')
local version = math.max(tonumber(redis.call('GET', KEYS[5]) or 0) + 1, time[1] * 1000000 + time[2])
redis.call('SET', KEYS[5], string.format('%.0f', version))
return redis.call('HGET', KEYS[3], id)
"""
)
"""KEYS: see `virtual_keys`. ARGV: id, document, created_at_ms, and each hash in hexadecimal. Returns the created_at_ms
that was stored first, or nothing when a hash is another virtual key's."""

REPLACE_VIRTUAL_KEY: Final = _script(
    """
if redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
local time = redis.call('TIME')
local version = math.max(tonumber(redis.call('GET', KEYS[5]) or 0) + 1, time[1] * 1000000 + time[2])
redis.call('SET', KEYS[5], string.format('%.0f', version))
return 1
""",
    "allow-oom",
)
"""KEYS as above. ARGV: id, the document as it was read, and the new one, which has the same hashes. Returns 0, and
changes nothing, when the document has changed since."""

DELETE_VIRTUAL_KEY: Final = _script(
    """
local old = redis.call('HGET', KEYS[1], ARGV[1])
if not old then return 0 end
for _, digest in ipairs(cjson.decode(old).key_sha256) do redis.call('HDEL', KEYS[2], digest) end
redis.call('HDEL', KEYS[1], ARGV[1])
redis.call('HDEL', KEYS[3], ARGV[1])
redis.call('ZREM', KEYS[4], ARGV[1])
local time = redis.call('TIME')
local version = math.max(tonumber(redis.call('GET', KEYS[5]) or 0) + 1, time[1] * 1000000 + time[2])
redis.call('SET', KEYS[5], string.format('%.0f', version))
return 1
""",
    "allow-oom",
)
"""KEYS as above. ARGV: id. Returns whether it existed."""

ALL: Final = (
    COMMIT,
    REMOVE,
    DUE,
    PURGE,
    PAGE,
    COUNT,
    COUNT_TYPES,
    WORKER_SIGNS,
    CLAIM,
    PUT_VIRTUAL_KEY,
    REPLACE_VIRTUAL_KEY,
    DELETE_VIRTUAL_KEY,
)


LOADING: Final = ScriptLoading(b"".join(pack("SCRIPT", "LOAD", script.text) for script in ALL), len(ALL))
