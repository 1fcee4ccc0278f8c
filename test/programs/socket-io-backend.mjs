// A server of socket.io like a user's. Each client joins the room that it asks for, and gets the numbered messages of that room (a line
// `news ROOM NUMBER`); it asks with acknowledgements, is asked, and shares a namespace or two. `auth` of a client choose a fault
// (see FAULTS); so do REFUSES, RECOVERY and DEFLATE in the environment. SIGTERM drains it; it then exits by itself.
import http from 'node:http'
import { createInterface } from 'node:readline'
import { setImmediate as turn } from 'node:timers/promises'
import { createBackend } from '@baton/backend-sdk'
import { migrateSocketIo } from '@baton/backend-sdk/socket.io'
import { Server } from 'socket.io'

const say = (msg, more = {}) => console.log(JSON.stringify({ msg, pid: process.pid, ...more }))

const server = http.createServer((request, response) => response.end(String(process.pid)))
const io = new Server(server, {
  pingInterval: Number(process.env.PING_INTERVAL ?? 2000),
  pingTimeout: 60_000,
  ...(process.env.RECOVERY && { connectionStateRecovery: {} }),
  ...(process.env.DEFLATE && { perMessageDeflate: { threshold: 0 } }),
})
const backend = createBackend()
backend.attach(server)

const FAULTS = {
  'data-date': (socket) => (socket.data.since = new Date()),
  'data-cycle': (socket) => (socket.data.self = socket.data),
}
const ABLE = process.env.REFUSES === undefined

const sockets = migrateSocketIo(io, backend, {
  state: (socket) => {
    const { fault } = socket.handshake.auth
    if (fault === 'state-throws') throw new Error('a bug in state')
    if (fault === 'state-never') return undefined
    return { marked: socket.marked ?? 0 }
  },
  resume: async (socket, { marked }) => {
    if (socket.handshake.auth.fault === 'resume-throws') throw new Error('a bug in resume')
    await turn()
    socket.marked = marked + 1
  },
})

/** The numbers of each room's messages. */
const news = new Map()
const since = (room, last) => (news.get(room) ?? []).filter((number) => number > last)
function deliver(socket, number) {
  if (number <= socket.data.last) return
  socket.data.last = number
  socket.emit('news', number)
}

io.use((socket, next) => {
  if (socket.handshake.auth.fault === 'auth-expires' && socket.recovered) return next(new Error('expired'))
  next()
})
io.on('connection', (socket) => {
  const { room } = socket.handshake.query
  const { resumed } = sockets.connection(socket)
  if (!socket.recovered) {
    void socket.join(room)
    socket.data = { room, last: 0, count: 0 }
    FAULTS[socket.handshake.auth.fault]?.(socket)
    socket.emit('welcome')
  } else for (const number of since(room, socket.data.last)) deliver(socket, number)
  if (socket.recovered !== (resumed !== undefined)) say('recovered, and not resumed')
  if (socket.recovered) say('resumed', { transport: socket.conn.transport.name })
  // Some events are let pass later.
  socket.use(([name], next) => {
    if (name === 'said') setImmediate(next)
    else next()
  })
  const next = () => (socket.data.count += 1)
  socket.on('ask', (number, answer) => answer(number, next()))
  socket.on('ask-slowly', async (number, answer) => {
    const mine = next()
    await turn()
    await turn()
    answer(number, mine)
  })
  socket.on('bytes', (number, bytes, answer) => answer(number, next(), bytes))
  socket.on('said', (number) => socket.emit('heard', number, next()))
  socket.on('ask-me', (number) => {
    const mine = next()
    socket.emit('asked', number, (answer) => socket.emit('answered', answer, mine))
  })
  socket.on('never', () => undefined)
  socket.on('who', (answer) => {
    const { id, recovered, marked = 0 } = socket
    const { room, last, count } = socket.data
    const data = { room, last, count }
    const { query, auth, issued, headers } = socket.handshake
    const { transport } = query
    const rooms = [...socket.rooms]
    answer({
      pid: process.pid,
      id,
      data,
      rooms,
      recovered,
      marked,
      auth,
      issued,
      transport,
      host: headers.host,
    })
  })
  socket.on('disconnect', (reason) =>
    say('closed', {
      reason,
      movedOn: sockets.connection(socket)?.movedOn,
      fault: socket.handshake.auth.fault,
    }),
  )
})
if (ABLE) io.of('/admin').on('connection', (socket) => socket.on('who', (answer) => answer(socket.id)))
io.of(/^\/team-\d$/).on('connection', (socket) => socket.on('who', (answer) => answer(socket.id)))

const drain = () =>
  void backend
    .drain({ deadline: process.env.DRAIN_DEADLINE ?? '30s' })
    .then(() => say('drained', { sockets: io.sockets.sockets.size }))
backend.on('drain', () => {
  say('draining')
  for (const { conn } of io.sockets.sockets.values()) if (conn.transport.name !== 'websocket') conn.close()
})
createInterface({ input: process.stdin }).on('line', (line) => {
  const [word, room, number] = line.split(' ')
  if (word === 'broadcast') {
    io.to(room).emit('broadcast', Number(number))
    return
  }
  news.set(room, [...(news.get(room) ?? []), Number(number)])
  for (const id of io.sockets.adapter.rooms.get(room) ?? []) {
    const socket = io.sockets.sockets.get(id)
    if (socket !== undefined) deliver(socket, Number(number))
  }
})
// A drained process exits, even while standard input is open.
process.stdin.unref?.()
process.once('SIGTERM', drain)
await backend.ready()
say('ready')
