-- Asks the requests of a file, one after the other and again, and tells what came of it as one line of JSON.

local requests = {}
local number = 0

function init(arguments)
    local file = assert(io.open(arguments[1], "rb"))
    for request in file:read("*a"):gmatch("(.-\r\n\r\n)") do
        requests[#requests + 1] = request
    end
    file:close()
end

function request()
    number = number % #requests + 1
    return requests[number]
end

function done(summary, latency)
    local errors = summary.errors
    print(string.format(
        '\n{"requests": %d, "seconds": %f, "failed": %d, "p50_ms": %f, "p99_ms": %f}',
        summary.requests,
        summary.duration / 1e6,
        errors.connect + errors.read + errors.write + errors.status + errors.timeout,
        latency:percentile(50) / 1e3,
        latency:percentile(99) / 1e3
    ))
end
