// Clients of app.mjs: CHATS and APIS of them, which together send RATE messages and requests a second at random moments. A line `rest` on
// standard input stops them; when everything is answered, or PATIENCE ms later, it prints what was counted since the last time. A line `go`
// starts them again, `moves` prints the moves so far, `ask` has each send one, `renew` has each connect again and send one, and `end` ends the process.
import { createInterface } from 'node:readline'
import { setTimeout as elapsed } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import { ApiClient } from './api-client.mjs'
import { ChatClient } from './chat-client.mjs'
import { below, micros, Totals } from './totals.mjs'

const TICK_MS = 2
const PATIENCE = 60_000
/** Connections that are opened at a time. */
const AT_ONCE = 64

const { values } = parseArgs({
  options: {
    'chat-port': { type: 'string', default: '0' },
    'api-port': { type: 'string', default: '0' },
    chats: { type: 'string', default: '0' },
    apis: { type: 'string', default: '0' },
    rate: { type: 'string', default: '0' },
    /** Nothing is cut, and no request is sent before the answer to the last one. */
    plain: { type: 'boolean', default: false },
    /** The first client sends most, the last one least: half of all requests are those of a sixth of the clients. */
    unequal: { type: 'boolean', default: false },
    /** The answers are not those of app.mjs. */
    'any-answer': { type: 'boolean', default: false },
    /** Each connection that ends is noted, and replaced a little later: the broker may be gone for a moment. */
    'note-ends': { type: 'boolean', default: false },
  },
})
const say = (msg, more) => console.log(JSON.stringify({ msg, ...more }))
const kinds = [
  { Client: ChatClient, port: Number(values['chat-port']), count: Number(values.chats), name: 'chat' },
  { Client: ApiClient, port: Number(values['api-port']), count: Number(values.apis), name: 'api' },
].map((kind) => ({ ...kind, totals: new Totals(), clients: [] }))

const rate = Number(values.rate)
const RECONNECT_MS = 20
let ends = []
function noteEnd(name, client) {
  const { pid, wasOpen, unanswered, isAnnounced, closeCode } = client
  if (wasOpen) ends.push({ name, at: micros(), pid, unanswered, isAnnounced, closeCode })
  setTimeout(() => client.connect(), RECONNECT_MS)
}

const everyone = () => kinds.flatMap(({ clients }) => clients)
async function until(holds) {
  const end = performance.now() + PATIENCE
  while (!everyone().every(holds) && performance.now() < end) await elapsed(5)
}

for (const { Client, port, count, totals, clients, name } of kinds) {
  const ended = values['note-ends'] ? (client) => noteEnd(name, client) : undefined
  while (clients.length < count) {
    for (let left = Math.min(AT_ONCE, count - clients.length); left > 0; left--)
      clients.push(
        new Client({ port, totals, isPlain: values.plain, isAnyAnswer: values['any-answer'], ended }),
      )
    await until(({ isOpen }) => isOpen)
  }
}

const drawn = values.unequal ? (count) => Math.floor(count * Math.random() ** 2.5) : below

let timer
let owed = 0
let last = performance.now()
function go() {
  const all = everyone()
  last = performance.now()
  timer = setInterval(() => {
    const now = performance.now()
    owed += (rate * (now - last)) / 1000
    last = now
    for (; owed >= 1; owed--) all[drawn(all.length)].say()
  }, TICK_MS)
}

/** Each connection must serve one more message; what is not answered by then is lost. The connections stay. */
async function rest() {
  clearInterval(timer)
  await until(({ isAnswered }) => isAnswered)
  for (const client of everyone()) client.say()
  await until(({ isAnswered }) => isAnswered)
  const counted = {}
  for (const kind of kinds) {
    const { name, totals, clients } = kind
    counted[name] = {
      ...totals.toJSON(),
      unanswered: clients.filter(({ isAnswered }) => !isAnswered).length,
    }
    const fresh = new Totals()
    // The clients keep the object.
    for (const key of Object.keys(fresh)) totals[key] = fresh[key]
  }
  say('counted', { ...counted, ends })
  ends = []
}

/** One message or request of each, at once. */
async function ask() {
  for (const client of everyone()) client.say()
  await until(({ isAnswered }) => isAnswered)
  say('asked')
}

/** Each leaves, and comes again as a new client. */
async function renew() {
  for (const client of everyone()) {
    client.close()
    client.connect()
  }
  await until(({ isOpen }) => isOpen)
  await ask()
}

/** How often connections have moved since the last rest. */
function moves() {
  say('moves', { count: kinds.reduce((sum, { totals }) => sum + totals.moves, 0) })
}

const orders = { go, rest, moves, ask, renew, end: () => process.exit() }
createInterface({ input: process.stdin })
  .on('line', (order) => void orders[order]())
  .on('close', () => process.exit())
say('connected', { missing: everyone().filter(({ isOpen }) => !isOpen).length })
