"""The programs of a `RedisStore` that Redis runs, each as one step that an append-only file has whole or not.

Keys of a run, all of them hashes that begin with its namespace: `state` (one field per fact), `games` and
`heads` (by number of the game: its bytes; its positions, worker, sequence and CRC-32), `tokens`, `stored`,
`safe` and `rows` (by worker), `model`, `learners` (by name: the last number that it acknowledged).
"""

from __future__ import annotations

KEYS = ("state", "games", "heads", "tokens", "stored", "safe", "rows", "model", "learners")
LAYOUT = 1
"""Version of these keys and of what is in them."""

_NAMES = f"local {', '.join(KEYS)} = unpack(KEYS)\n"

_RAISE = """
local function raise(key, field, value)
  local had = tonumber(redis.call('HGET', key, field) or 0)
  if value > had then redis.call('HSET', key, field, value) return value end
  return had
end
"""

_OPENED = f"""
local layout = redis.call('HGET', state, 'layout')
if not layout then return {{'none'}} end
if layout ~= '{LAYOUT}' then return {{'layout', layout}} end
"""

BOOT = """
if redis.call('EXISTS', KEYS[1]) == 1 and redis.call('HGET', KEYS[1], 'server') ~= ARGV[1] then
  redis.call('HSET', KEYS[1], 'server', ARGV[1])
end
"""
"""Note which life of the server this is; every connection does so before anything else."""

_OPEN = f"""
local server, learner, about, meaning, positions, episodes = unpack(ARGV)
local had = redis.call('HMGET', state, 'layout', 'meaning', 'learner')
if had[1] and had[1] ~= '{LAYOUT}' then return {{'layout', had[1]}} end
if had[2] and had[2] ~= meaning then return {{'meaning', had[2]}} end
if had[3] and had[3] ~= '' and learner ~= '' and had[3] ~= learner then return {{'learner', had[3]}} end
if not had[1] then
  redis.call('HSET', state, 'layout', {LAYOUT}, 'first', 1, 'last', 0, 'kept', 0, 'learner', '', 'model', '',
    'acknowledged', 0, 'read', 0, 'progress', 0, 'paused', 0, 'games', 0, 'positions', 0,
    'evicted_games', 0, 'unread_evicted', 0, 'duplicates', 0)
end
if learner ~= '' then redis.call('HSET', state, 'learner', learner) end
redis.call('HSET', state, 'server', server, 'about', about, 'meaning', meaning, 'stopped', 0,
  'most_positions', positions, 'most_episodes', episodes)
return {{'ok'}}
"""

_ABOUT = """
return {'ok', redis.call('HGET', state, 'about')}
"""

_JOIN = """
local worker, token, known = ARGV[1], ARGV[2], tonumber(ARGV[3])
local had = redis.call('HGET', tokens, worker)
if had and had ~= token then return {'taken'} end
local now = tonumber(redis.call('TIME')[1])
local all = redis.call('HGETALL', rows)
for i = 1, #all, 2 do
  if tonumber(string.match(all[i + 1], '^%d+')) < now - tonumber(ARGV[4]) then
    redis.call('HDEL', rows, all[i])
  end
end
if not had then redis.call('HSET', tokens, worker, token) end
redis.call('HSETNX', rows, worker, now .. '.0 {}')
return {'ok', raise(stored, worker, known), raise(safe, worker, known)}
"""

_ADD = """
local worker, start = ARGV[1], tonumber(ARGV[2])
if redis.call('HEXISTS', tokens, worker) == 0 then return {'stranger'} end
local had = tonumber(redis.call('HGET', stored, worker) or 0)
local last_safe = tonumber(redis.call('HGET', safe, worker) or 0)
local count = (#ARGV - 2) / 3
if count == 0 then return {'ok', had, last_safe} end
if start > had + 1 then return {'gap', had} end
local s = redis.call('HMGET', state, 'first', 'last', 'kept', 'acknowledged', 'read', 'learner',
  'most_positions', 'most_episodes')
local first, last, kept = tonumber(s[1]), tonumber(s[2]), tonumber(s[3])
local acknowledged, read, attached = tonumber(s[4]), tonumber(s[5]), s[6] ~= ''
local most_positions, most_episodes = tonumber(s[7]), tonumber(s[8])
local games_new, positions_new, evicted, unread, duplicates, full = 0, 0, 0, 0, 0, false
for i = 1, count do
  local sequence, positions = start + i - 1, tonumber(ARGV[3 * i])
  if sequence <= had then
    duplicates = duplicates + 1
  else
    while last >= first and (last - first + 2 > most_episodes or kept + positions > most_positions) do
      if attached and first > acknowledged then full = true break end
      kept = kept - tonumber(string.match(redis.call('HGET', heads, first) or '0', '^%d+'))
      redis.call('HDEL', games, first)
      redis.call('HDEL', heads, first)
      evicted = evicted + 1
      if first > read then unread = unread + 1 end
      first = first + 1
    end
    if full then break end
    last, had, kept = last + 1, sequence, kept + positions
    redis.call('HSET', games, last, ARGV[3 * i + 2])
    local head = string.format('%d %s %.0f %s', positions, worker, sequence, ARGV[3 * i + 1])
    redis.call('HSET', heads, last, head)
    games_new, positions_new = games_new + 1, positions_new + positions
  end
end
if games_new + evicted > 0 then
  redis.call('HSET', stored, worker, had)
  redis.call('HSET', state, 'first', first, 'last', last, 'kept', kept)
  redis.call('HINCRBY', state, 'games', games_new)
  redis.call('HINCRBY', state, 'positions', positions_new)
  redis.call('HINCRBY', state, 'evicted_games', evicted)
  redis.call('HINCRBY', state, 'unread_evicted', unread)
end
if duplicates > 0 then redis.call('HINCRBY', state, 'duplicates', duplicates) end
return {'ok', had, last_safe}
"""

_READ = """
local after, most, life = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3]
local s = redis.call('HMGET', state, 'server', 'first', 'last')
local first, last, anew = tonumber(s[2]), tonumber(s[3]), 0
if after > last or (life ~= '' and life ~= s[1]) then after, anew = first - 1, 1 end
local from = math.max(after + 1, first)
local to = math.min(last, from + most - 1)
local out = {'ok', s[1], anew, first, from}
for i = from, to, 1000 do
  local numbers = {}
  for k = i, math.min(to, i + 999) do numbers[#numbers + 1] = k end
  out[#out + 1] = redis.call('HMGET', heads, unpack(numbers))
  out[#out + 1] = redis.call('HMGET', games, unpack(numbers))
end
return out
"""

_ACKNOWLEDGE = """
local learner, own, life, number = ARGV[1], ARGV[2] == '1', ARGV[3], tonumber(ARGV[4])
local s = redis.call('HMGET', state, 'learner', 'server', 'last', 'read', 'acknowledged')
if own and s[1] ~= learner then return {'learner', s[1]} end
if life == '' or life == s[2] then
  number = math.min(number, tonumber(s[3]))
  if number > tonumber(s[4]) then redis.call('HSET', state, 'read', number) end
  if own and number > tonumber(s[5]) then redis.call('HSET', state, 'acknowledged', number) end
  redis.call('HSET', learners, learner, number)
end
if own then
  for i = 5, #ARGV, 2 do
    raise(safe, ARGV[i], tonumber(ARGV[i + 1]))
    raise(stored, ARGV[i], tonumber(ARGV[i + 1]))
  end
end
return {'ok'}
"""

_PUBLISH = """
if redis.call('HGET', state, 'learner') ~= ARGV[1] then
  return {'learner', redis.call('HGET', state, 'learner')}
end
redis.call('HSET', model, 'hash', ARGV[2], 'data', ARGV[3])
redis.call('HSET', state, 'model', ARGV[2], 'progress', ARGV[4])
return {'ok'}
"""

_WEIGHTS = """
local newest = redis.call('HGET', state, 'model')
if newest == '' or newest == ARGV[1] then return {'ok'} end
return {'ok', newest, redis.call('HGET', model, 'data')}
"""

_REPORT = """
if redis.call('HEXISTS', tokens, ARGV[1]) == 0 then return {'stranger'} end
local now = redis.call('TIME')
redis.call('HSET', rows, ARGV[1], now[1] .. string.format('.%06d ', now[2]) .. ARGV[2])
local s = redis.call('HMGET', state, 'model', 'progress', 'paused', 'stopped')
return {'ok', s[1], s[2], s[3], s[4], redis.call('HGET', safe, ARGV[1]) or '0'}
"""

_WORKERS = """
local now = redis.call('TIME')
return {'ok', now[1] .. string.format('.%06d', now[2]), redis.call('HGETALL', rows)}
"""

_SET = """
redis.call('HSET', state, ARGV[1], ARGV[2])
return {'ok'}
"""

_STATE = """
return {'ok', redis.call('HMGET', state, unpack(ARGV))}
"""

SCRIPTS = {
    "open": _NAMES + _OPEN,
    "about": _NAMES + _OPENED + _ABOUT,
    "join": _NAMES + _OPENED + _RAISE + _JOIN,
    "add": _NAMES + _OPENED + _ADD,
    "read": _NAMES + _OPENED + _READ,
    "acknowledge": _NAMES + _OPENED + _RAISE + _ACKNOWLEDGE,
    "publish": _NAMES + _OPENED + _PUBLISH,
    "weights": _NAMES + _OPENED + _WEIGHTS,
    "report": _NAMES + _OPENED + _REPORT,
    "workers": _NAMES + _OPENED + _WORKERS,
    "set": _NAMES + _OPENED + _SET,
    "state": _NAMES + _OPENED + _STATE,
}
"""By name. Each takes KEYS and answers a list whose first item is `ok` or the reason why not."""
