import { Socket } from 'node:net'
import * as fc from 'fast-check'
import t from 'tap'
import { AdoptedSockets } from '../src/attach/adopted-sockets.ts'

void t.test('a socket is in the list until it has closed, and its end is reported once', async (t) => {
  const sockets = new AdoptedSockets()
  const socket = new Socket()
  let gone = 0
  sockets.add(socket, () => {
    gone += 1
    t.equal(sockets.size, 0, 'it is no longer in the list')
  })
  t.same([...sockets], [socket])
  socket.emit('close')
  socket.emit('close')
  t.equal(gone, 1)
})

void t.test('sockets that close during iteration', async (t) => {
  const sockets = new AdoptedSockets()
  const all = Array.from({ length: 5 }, () => new Socket())
  for (const socket of all) sockets.add(socket, () => undefined)
  const seen: Socket[] = []
  for (const socket of sockets) {
    seen.push(socket)
    socket.emit('close')
    sockets.add(new Socket(), () => undefined)
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
      const sockets = new AdoptedSockets()
      const model = new Set<Socket>()
      const gone: Socket[] = []
      for (const each of steps) {
        if (each.do === 'add') {
          const socket = new Socket()
          model.add(socket)
          sockets.add(socket, () => gone.push(socket))
        } else {
          const socket = [...model][each.at % Math.max(1, model.size)]
          if (socket === undefined) continue
          model.delete(socket)
          socket.emit('close')
          if (gone.at(-1) !== socket) throw new Error('its end was not reported')
        }
        const listed = new Set(sockets)
        if (sockets.size !== model.size || listed.size !== model.size) throw new Error('another size')
        for (const socket of listed) if (!model.has(socket)) throw new Error('a stranger')
      }
      if (new Set(gone).size !== gone.length) throw new Error('reported twice')
    }),
    { numRuns: 200 },
  )
})
