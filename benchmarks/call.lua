-- For wrk: sends one call for ever, and prints what came of it as one line of JSON.
-- Arguments: the body, then name and value of each header in turn. "{n}" in a value stands for
-- the number of the call; without it, the request is made once and costs nothing here.

local number = 0
local numbered = {}

function init(args)
   wrk.method = "POST"
   wrk.body = args[1]
   for i = 2, #args, 2 do
      if args[i + 1]:find("{n}", 1, true) then
         numbered[args[i]] = args[i + 1]
      else
         wrk.headers[args[i]] = args[i + 1]
      end
   end
   if next(numbered) ~= nil then
      request = next_request
   end
end

function next_request()
   number = number + 1
   for name, value in pairs(numbered) do
      wrk.headers[name] = value:gsub("{n}", number)
   end
   return wrk.format()
end

function done(summary, latency, requests)
   local errors = summary.errors
   io.write(string.format(
      'result: {"requests": %d, "microseconds": %d, "p99": %d, "bad": %d, "broken": %d}\n',
      summary.requests, summary.duration, latency:percentile(99), errors.status,
      errors.connect + errors.read + errors.write + errors.timeout))
end
