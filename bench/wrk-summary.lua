-- wrk's own summary rounds its figures; this prints the exact counts, as JSON on the last line.
done = function(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format(
    '{"requests":%d,"microseconds":%d,"bytes":%d,"p99":%d,"errors":%d}\n',
    summary.requests, summary.duration, summary.bytes, latency:percentile(99.0),
    errors.connect + errors.read + errors.write + errors.status + errors.timeout
  ))
end
