// Several listeners of one process that runs out of descriptors: prints their ports; on a line on stdin it fills the table up
// to the reserve, accepts one round, and prints the number of free descriptors. Third argument: how often one low number
// is freed afterwards and a client accepted.
import { once } from 'node:events'
import { readdirSync } from 'node:fs'
import { dup, EPOLLIN, listenTcp, Poller, send, socketpair } from '@baton/native-sendmsg'
import { Listener } from '../../dist/worker/listen/listener.js'

const [limit, count, gaps = 0] = process.argv.slice(2).map(Number)
const logs = []
const logger = { error: ({ code }, message) => logs.push(`${message}: ${code}`) }
let accepted = 0
let noticed = () => {}
const listeners = Array.from({ length: count }, (_, index) => {
  const config = { name: `l${index}`, service: 'web', protocol: 'tcp', routes: [] }
  const fd = listenTcp({ host: '127.0.0.1', port: 0, backlog: 512 })
  return new Listener(config, fd, () => noticed((accepted += 1)), logger)
})
console.log(JSON.stringify(listeners.map(({ address }) => address)))
await once(process.stdin, 'data')

const descriptors = () => readdirSync('/proc/self/fd').length - 1
const fillers = []
await new Promise((resolve) => {
  let rounds = 0
  const poller = new Poller({ afterWake: () => (rounds += 1) === 2 && resolve() })
  const [near, far] = socketpair('stream')
  // One less than the reserve: 64 for everything other than clients, and 64 more for a batch of clients.
  do fillers.push(dup(0))
  while (fillers.at(-1).fd < limit - 130)
  // From within a round, so that the next one reports all of them.
  const watch = poller.add(near.fd, EPOLLIN, () => {
    watch.remove()
    for (const listener of listeners) listener.start(poller)
  })
  send(far.fd, Buffer.from('x'))
})
for (let gap = 0; gap < gaps; gap++) {
  const next = new Promise((resolve) => (noticed = resolve))
  fillers[gap].close()
  await next
}
console.log(JSON.stringify({ accepted, left: limit - descriptors(), logs }))
process.exit(0)
