-- wrk's requests, of the heads and bodies in `folder`: load.py sets that and what `Ask` of questions.py says.
math.randomseed(seed)
local DRAWS = 2 ^ 18
local values = {["\1"] = "digits", ["\2"] = "length", ["\3"] = "fresh", ["\4"] = '""'}

-- A function that joins what stands between the holes of a text with what goes into them.
local function filler(text)
  local between, joined = {}, {}
  for before, hole in (text .. "\4"):gmatch("([^\1-\4]*)([\1-\4])") do
    between[#between + 1] = before
    joined[#joined + 1] = ("between[%d] .. %s"):format(#between, values[hole])
  end
  local code = "local between = ... return function(digits, length, fresh) return " .. table.concat(joined, " .. ") .. " end"
  return loadstring(code)(between)
end

local function read(name)
  local found = {}
  for text in io.open(folder .. "/" .. name, "rb"):read("*a"):gmatch("[^\30]+") do found[#found + 1] = text end
  return found
end

local heads, bodies = read("heads"), read("bodies")
for at, text in ipairs(heads) do heads[at] = filler(text) end
local numbered = #bodies == 1 and filler(bodies[1])

local ranks, total, sum = {}, 0, 0
if order == "zipf" then
  for rank = 1, count do total = total + 1 / rank end
  for rank = 1, count do
    sum = sum + 1 / rank
    while #ranks < sum / total * DRAWS do ranks[#ranks + 1] = rank - 1 end
  end
end

local four = {}  -- white spaces, in every order
for at = 0, 255 do
  four[at + 1] = ""
  for power = 0, 3 do
    local kind = math.floor(at / 4 ^ power) % 4 + 1
    four[at + 1] = four[at + 1] .. (" \t\r\n"):sub(kind, kind)
  end
end
local function blank()
  local any = math.random
  return four[any(256)] .. four[any(256)] .. four[any(256)] .. four[any(256)]
end

local fresh, pad = ("%020x"):format(math.random(2 ^ 31)) .. "%012x-%016x", "%012d"
function request()
  local id
  if order == "new" then id = number
  elseif order == "zipf" then id = ranks[math.random(#ranks)]
  elseif order == "random" then id = math.random(0, count - 1)
  else id = number % count end
  number = number + 1
  local kind, digits = math.random(#heads), pad:format(id)
  local body = numbered and numbered(digits) or bodies[(id * spellings + kind % spellings) % #bodies + 1]
  if not seen then body = body .. blank() end
  return heads[kind](digits, #body, fresh:format(number, number)) .. body
end

local threads = {}
function setup(thread) threads[#threads + 1] = thread end
function done(summary, latency)
  local errors = summary.errors
  io.write(string.format(
    '\n{"requests": %d, "seconds": %f, "bytes": %d, "failed": %d, "p50": %f, "p99": %f, "next": %d}\n',
    summary.requests, summary.duration / 1e6, summary.bytes,
    errors.connect + errors.read + errors.write + errors.status + errors.timeout,
    latency:percentile(50) / 1e6, latency:percentile(99) / 1e6, threads[1]:get("number")))
end
