// node bench/adoption.mjs [--quick]
//
// The cost of making a `net.Socket` from a descriptor: with the descriptor alone, and with every option that the
// constructor would otherwise fill in (packages/backend-sdk/src/open-socket.ts). Rounds of the two alternate.
import { Socket } from 'node:net'
import { parseArgs } from 'node:util'
import { socketpair } from '@baton/native-sendmsg'
import { median } from './statistics.mjs'

const { values } = parseArgs({ options: { quick: { type: 'boolean', default: false } } })
const [rounds, warmUp] = values.quick ? [60, 30] : [300, 100]
const BATCH = 64

const ways = {
  'the descriptor alone': (fd) => new Socket({ fd }),
  'every option named': (fd) =>
    new Socket({ fd, allowHalfOpen: false, emitClose: false, autoDestroy: true, decodeStrings: false }),
}

function descriptors() {
  return Array.from({ length: BATCH }, () => {
    const [kept, peer] = socketpair('stream')
    peer.close()
    return kept.release()
  })
}

const seen = new Map(Object.keys(ways).map((name) => [name, []]))
for (let round = 0; round < rounds; round++) {
  for (const [name, open] of Object.entries(ways)) {
    const fds = descriptors()
    const from = performance.now()
    const sockets = fds.map((fd) => open(fd))
    const each = ((performance.now() - from) * 1000) / BATCH
    if (round >= warmUp) seen.get(name).push(each)
    for (const socket of sockets) socket.destroy()
    await new Promise((resolve) => setImmediate(resolve))
  }
}
for (const [name, each] of seen) console.log(`${name.padEnd(24)}${median(each).toFixed(2).padStart(8)} us`)
