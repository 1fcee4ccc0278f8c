import { Socket } from 'node:net'
import * as fc from 'fast-check'
import t from 'tap'
import { AdoptedSockets } from '../src/attach/adopted-sockets.ts'

void t.test('a socket is in the list until it has closed, and its end is reported once', async (t) => {
  let gone = 0
  const sockets = new AdoptedSockets(() => {
    gone += 1
    t.equal(sockets.size, 0, 'it is no longer in the list')
  })
  const socket = new Socket()
  sockets.add(socket)
  t.same([...sockets], [socket])
  socket.emit('close')
  socket.emit('close')
  t.equal(gone, 1)
})

void t.test('sockets that close during iteration', async (t) => {
  const sockets = new AdoptedSockets()
  const all = Array.from({ length: 5 }, () => new Socket())
  for (const socket of all) sockets.add(socket)
  const seen: Socket[] = []
  for (const socket of sockets) {
    seen.push(socket)
    socket.emit('close')
    sockets.add(new Socket())
  }
  t.equal(seen.length, 5)
  t.ok(all.every((socket) => seen.includes(socket)))
  t.equal(sockets.size, 5, 'those added meanwhile')
})

void t.test('a list of sockets behaves like a set of them', async () => {
  const step = fc.record({
    do: fc.constantFrom('add' as const, 'add' as const, 'close' as const),
    at: fc.nat(100),
  })
  fc.assert(
    fc.property(fc.array(step, { maxLength: 80 }), (steps) => {
      let gone = 0
      const sockets = new AdoptedSockets(() => (gone += 1))
      const model = new Set<Socket>()
      let closed = 0
      for (const each of steps) {
        if (each.do === 'add') {
          const socket = new Socket()
          model.add(socket)
          sockets.add(socket)
        } else {
          const socket = [...model][each.at % Math.max(1, model.size)]
          if (socket === undefined) continue
          model.delete(socket)
          socket.emit('close')
          closed += 1
          if (gone !== closed) throw new Error('its end was not reported, or more than once')
        }
        const listed = new Set(sockets)
        if (sockets.size !== model.size || listed.size !== model.size) throw new Error('another size')
        for (const socket of listed) if (!model.has(socket)) throw new Error('a stranger')
      }
    }),
    { numRuns: 200 },
  )
})
