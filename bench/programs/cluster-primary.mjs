// node cluster-primary.mjs APP WORKERS: Node's own `cluster`, round robin. Prints its port and the pids of its processes.
import cluster from 'node:cluster'
import { once } from 'node:events'

const [app, workers] = process.argv.slice(2)
cluster.schedulingPolicy = cluster.SCHED_RR
cluster.setupPrimary({ exec: app })

const pids = []
let port
while (pids.length < Number(workers)) {
  const worker = cluster.fork()
  ;[{ port }] = await once(worker, 'listening')
  pids.push(worker.process.pid)
}
console.log(JSON.stringify({ msg: 'listening', port, pids }))
process.stdin.resume().on('end', () => process.exit())
