// One half of a random conversation over TCP: what each side sends, and how it ends, follows from the number of the conversation, so that
// both know what to expect. Used by the client (a test) and the server (`random-streams-backend.mjs`).
import { setTimeout as wait } from 'node:timers/promises'

/** A generator of numbers below 1 (mulberry32). @param {number} seed */
function generator(seed) {
  let state = seed | 0
  return () => {
    state = (state + 0x6d2b79f5) | 0
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state)
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 0x1_0000_0000
  }
}

/** A prime length: a lost, doubled or moved block of any other size is seen. */
const PERIOD = 65_521
const noise = generator(1)
const pattern = Buffer.from(Array.from({ length: PERIOD }, () => noise() * 256))
const endless = Buffer.concat([pattern, pattern, pattern])

/** Bytes that `side` of conversation `id` sends from offset `at`; at most `2 * PERIOD`. */
function bytesOf(id, side, at, length) {
  const from = (at + id * 7919 + (side === 'client' ? 0 : 31_337)) % PERIOD
  return endless.subarray(from, from + length)
}

const ENDS = ['client first', 'server first', 'together', 'client resets', 'server resets']

/**
 * @param {number} id
 * @returns {{ end: string, client: { length: number }, server: { length: number } }} lengths in bytes; of a side that resets, how many
 * it sends before
 */
export function planOf(id) {
  const random = generator(id)
  const size = () =>
    Math.floor(random() < 0.1 ? random() * 4_000_000 : random() < 0.5 ? random() * 3000 : random() * 300_000)
  return {
    end: ENDS[Math.floor(random() * ENDS.length)],
    client: { length: size() },
    server: { length: size() },
  }
}

/**
 * Plays one side on an open socket (`allowHalfOpen`).
 *
 * @param {import('node:net').Socket} socket
 * @param {number} id
 * @param {'client' | 'server'} side
 * @param {Buffer} early what has been received already
 * @returns {Promise<{ received: number, wrong: boolean, end: string }>} bytes received, whether they differ from what the other side
 * sends, and how they ended: `end`, or a code of an error
 */
export async function play(socket, id, side, early = Buffer.alloc(0)) {
  const plan = planOf(id)
  const other = side === 'client' ? 'server' : 'client'
  const random = generator(id + (side === 'client' ? 1_000_000 : 2_000_000))
  let received = 0
  let wrong = false
  const take = (chunk) => {
    for (let at = 0; at < chunk.length; at += PERIOD) {
      const part = chunk.subarray(at, at + PERIOD)
      wrong ||= !part.equals(bytesOf(id, other, received, part.length))
      received += part.length
    }
    if (random() > 0.02) return
    socket.pause()
    setTimeout(() => socket.resume(), random() * 20)
  }
  const over = new Promise((resolve) => {
    socket.on('error', ({ code }) => resolve(code))
    socket.on('end', () => resolve('end'))
    // After an end or an error, which came first.
    socket.on('close', () => resolve('closed'))
  })
  if (early.length > 0) take(early)
  socket.on('data', take)

  const { length } = plan[side]
  const send = async () => {
    for (let at = 0; at < length && socket.writable;) {
      const chunk = bytesOf(id, side, at, Math.min(length - at, Math.ceil(random() * 2 * PERIOD)))
      at += chunk.length
      // Errors are seen as events.
      await new Promise((resolve) => socket.write(chunk, () => resolve(undefined)))
      if (random() < 0.05) await wait(random() * 20)
    }
  }
  const last = plan.end === `${other} first` || plan.end === `${other} resets`
  if (last) await Promise.all([over, send()])
  else await send()
  if (plan.end === `${side} resets`) socket.resetAndDestroy()
  else socket.end()
  const end = await over
  if (!socket.closed) await new Promise((resolve) => socket.once('close', resolve))
  return { received, wrong, end }
}
