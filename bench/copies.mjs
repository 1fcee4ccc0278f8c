// node bench/copies.mjs [--quick]
//
// What it costs that the master keeps a copy of each connection that waits in the worker: CPU time, of both ends together, from the moment at which
// a connection begins to wait. `offered at once`: it waits for less than the delay, so no copy is made. `copied`: the copy is made, and closed.
import { once } from 'node:events'
import { parseArgs } from 'node:util'
import { acceptOne, listenTcp, OwnedFd, Poller, localAddress } from '@baton/native-sendmsg'
import { connect } from 'node:net'
import { Copier } from '../packages/broker/dist/worker/copies/copier.js'
import { WorkerCopies } from '../packages/broker/dist/master/workers/worker-copies.js'
import { median } from './statistics.mjs'

const { values } = parseArgs({ options: { quick: { type: 'boolean', default: false } } })
const [count, rounds] = values.quick ? [512, 5] : [1024, 21]
const listener = { name: 'web', protocol: 'http' }
const poller = new Poller()
const logger = { error: console.error }

async function connections() {
  const socket = listenTcp({ host: '127.0.0.1', port: 0 })
  const { port } = localAddress(socket.fd)
  const all = []
  for (let order = 1; order <= count; order++) {
    const client = connect(port, '127.0.0.1').unref()
    await once(client, 'connect')
    const { fd, peer } = acceptOne(socket.fd)
    const id = Buffer.alloc(16, order)
    all.push({
      order,
      fd: fd instanceof OwnedFd ? fd : new OwnedFd(fd),
      listener,
      peer,
      id,
      acceptedAt: performance.now(),
    })
  }
  return all
}

const all = await connections()
const [copies, theirs] = WorkerCopies.create(poller, logger, () => {})
const copier = new Copier(theirs, poller, count)
copier.account({ kind: 'listener', name: 'web', service: 'web', unix: false }, (numbers) =>
  numbers.push(count),
)
const keeper = copier.of('web')

const used = async (work) => {
  const before = process.cpuUsage()
  await work()
  const { user, system } = process.cpuUsage(before)
  return (user + system) / count
}
const until = async (holds) => {
  while (!holds()) await new Promise((resolve) => setTimeout(resolve, 1))
}

const atOnce = []
const copied = []
const waiting = []
for (let round = 0; round < rounds + 1; round++) {
  const first = await used(() => keeper.over(all.map((connection) => keeper.keep(connection))))
  const idle = await used(() => new Promise((resolve) => setTimeout(resolve, 30)))
  const second = await used(async () => {
    const kept = all.map((connection) => keeper.keep(connection))
    await until(() => copies.size === count)
    keeper.over(kept)
    await until(() => copies.size === 0)
  })
  // The first round is compiled code's.
  if (round === 0) continue
  atOnce.push(first)
  waiting.push(idle)
  copied.push(second)
}
console.log(
  `microseconds of CPU time for each of ${count} connections that wait, median of ${rounds} rounds\n`,
)
console.log(`offered at once   ${median(atOnce).toFixed(2)}`)
console.log(`copied            ${median(copied).toFixed(2)}`)
console.log(`(the loop itself  ${median(waiting).toFixed(2)})`)
process.exit()
