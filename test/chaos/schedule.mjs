import { Random } from './random.mjs'

/** The deck of faults: how many of each, and how long it lasts in milliseconds, [least, most]. */
const DECK = {
  kill: { cards: 4, lasts: [0, 0] },
  'kill all': { cards: 1, lasts: [0, 0] },
  stop: { cards: 4, lasts: [1000, 10_000] },
  'stop, then kill': { cards: 2, lasts: [1000, 5000] },
  drain: { cards: 3, lasts: [0, 0] },
  restart: { cards: 3, lasts: [0, 0] },
  'one connection': { cards: 3, lasts: [500, 4000] },
  'slow answers': { cards: 2, lasts: [500, 4000] },
  'busy loop': { cards: 3, lasts: [300, 5000] },
  'descriptor leak': { cards: 3, lasts: [500, 4000] },
}

/** The part of it in a quick run, which draws each fault once before any of them twice. */
const QUICK = 0.15

const PAUSE = { quick: [100, 500], full: [200, 1200] }

/** Milliseconds between the exit of a process and the next fault for its successor. */
const RECOVERY = 2000

/**
 * The faults of one run, drawn from the seed alone: which of the `slots` backends each one hits, when (milliseconds from
 * the start of the load) and for how long. No backend has two faults at a time.
 */
export function drawSchedule({ seed, seconds, slots, quick }) {
  const random = new Random(seed)
  const end = seconds * 1000
  const free = Array.from({ length: slots }, () => 0)
  const pause = quick ? PAUSE.quick : PAUSE.full
  const faults = []
  let deck = []
  for (let at = random.integer(...pause); at < end; at += random.integer(...pause)) {
    if (deck.length === 0) deck = random.shuffled(cards(quick))
    const kind = deck.pop()
    const all = kind === 'kill all'
    const slot = random.shuffled(free.keys()).toSorted((a, b) => free[a] - free[b])[0]
    const [least, most] = DECK[kind].lasts
    const lasts = Math.round(random.integer(least, most) * (quick ? QUICK : 1))
    at = Math.max(at, all ? Math.max(...free) : free[slot])
    if (at + lasts >= end) break
    for (const each of all ? free.keys() : [slot]) free[each] = at + lasts + (quick ? RECOVERY / 2 : RECOVERY)
    faults.push({ at, kind, slot, lasts })
  }
  return faults
}

function cards(quick) {
  return Object.entries(DECK).flatMap(([kind, { cards }]) =>
    Array.from({ length: quick ? 1 : cards }, () => kind),
  )
}

export const FAULT_KINDS = Object.keys(DECK)
