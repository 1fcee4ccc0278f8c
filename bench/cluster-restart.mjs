// The rolling restart from Node's documentation: each `cluster` worker is replaced once its successor listens. A line
// on standard input triggers one deploy.
import cluster from 'node:cluster'
import { once } from 'node:events'
import { createInterface } from 'node:readline'

const [app = '', instances = '2'] = process.argv.slice(2)
cluster.setupPrimary({ exec: app })

async function start() {
  const worker = cluster.fork()
  await once(worker, 'listening')
  return worker
}

const say = (msg) => console.log(JSON.stringify({ msg }))
let workers = await Promise.all(Array.from({ length: Number(instances) }, start))
say('listening')
for await (const asked of createInterface({ input: process.stdin })) {
  if (asked !== 'deploy') continue
  const successors = []
  for (const old of workers) {
    successors.push(await start())
    const gone = once(old, 'exit')
    old.disconnect()
    await gone
  }
  workers = successors
  say('deployed')
}
process.exit(0)
