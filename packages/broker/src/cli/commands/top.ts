import { locate } from '../configuration.ts'
import { paintFor } from '../output/colours.ts'
import { configOption, DEFAULT_CONFIG, type Command } from '../command.ts'
import type { Display, Terminal } from '../output/terminal.ts'
import { DONE, CommandError } from '../../exit-codes.ts'
import { depth, fit } from '../top/fit.ts'
import { frameOf, handoffsPerSecond, linesOf } from '../top/frame.ts'
import { type Key, Screen } from '../top/screen.ts'
import type { Snapshot } from '../top/snapshot.ts'
import { type Observation, watch } from '../top/watch.ts'
import { SUMMARIES } from '../summaries.ts'

/** Seconds of handoffs that are drawn. */
const HISTORY = 60

const FOOT = 'q quits, arrows scroll'

export const top: Command = {
  name: 'top',
  operands: [],
  summary: SUMMARIES.top,
  details: [
    'Shows once a second: connections and handoffs per second, latency over the last 10 s, held connections, reasons for',
    'fallbacks and rejections, and every backend. q or Ctrl-C quits. If standard output is not a terminal, prints a line of',
    'key=value for each service every second. Continues across reloads.',
  ].join('\n'),
  options: {
    once: { help: 'print one snapshot, after measuring for a second, and exit' },
    ...configOption,
  },
  async run({ values, switches }, terminal) {
    const file = values.get('config') ?? DEFAULT_CONFIG
    // Errors in the file are reported here; later on it is read again, and may be half edited.
    await locate(file)
    const end = new AbortController()
    terminal.unread?.addEventListener('abort', () => end.abort())
    const observations = watch(() => locate(file), end.signal)
    if (switches.has('once')) await printOnce(observations, terminal)
    else if (terminal.display === undefined) await printLines(observations, terminal)
    else await drawLive(observations, terminal.display, terminal, end)
    end.abort()
    return DONE
  },
}

/** Skips the first snapshot: rates need a second of measuring. */
async function printOnce(observations: AsyncIterable<Observation>, terminal: Terminal): Promise<void> {
  let seen = 0
  for await (const observation of observations) {
    if (observation.kind === 'lost') throw new CommandError(observation.message, { code: observation.code })
    seen += 1
    if (seen < 2) continue
    const { head, body } = frameOf(observation.snapshot, { paint: paintFor(terminal), history: [] })
    for (const line of [...head, ...body]) terminal.out(line)
    return
  }
}

async function printLines(observations: AsyncIterable<Observation>, terminal: Terminal): Promise<void> {
  let seen = 0
  let lost = false
  for await (const observation of observations) {
    if (observation.kind === 'lost') {
      if (seen === 0) throw new CommandError(observation.message, { code: observation.code })
      if (!lost) terminal.err(`baton: ${observation.message} (retrying)`)
      lost = true
      continue
    }
    lost = false
    seen += 1
    if (seen > 1) for (const line of linesOf(observation.snapshot)) terminal.out(line)
  }
}

async function drawLive(
  observations: AsyncIterable<Observation>,
  display: Display,
  terminal: Terminal,
  end: AbortController,
): Promise<void> {
  const paint = paintFor(terminal)
  const history: number[] = []
  let snapshot: Snapshot | undefined
  let lost: string | undefined
  let offset = 0

  const screen = new Screen(display, (key) => handle(key))
  const draw = () => {
    if (snapshot === undefined) return
    const frame = frameOf(snapshot, { paint, history, lost })
    offset = Math.min(Math.max(0, offset), depth(frame, screen.size.rows))
    screen.draw(fit(frame, screen.size, { offset, foot: paint('dim', FOOT) }))
  }
  const handle = (key: Key) => {
    if (key === 'quit') return end.abort()
    if (key === 'suspend') return screen.suspend()
    if (key !== 'redraw') offset += STEPS[key](screen.size.rows)
    draw()
  }

  try {
    for await (const observation of observations) {
      if (observation.kind === 'lost') {
        // The broker was never reached: fail like any other command.
        if (snapshot === undefined) throw new CommandError(observation.message, { code: observation.code })
        lost = observation.message
      } else {
        if (snapshot === undefined) screen.open()
        ;({ snapshot } = observation)
        lost = undefined
        history.push(handoffsPerSecond(snapshot))
        history.splice(0, history.length - HISTORY)
      }
      draw()
    }
  } finally {
    screen.close()
  }
}

const STEPS: Readonly<Record<'up' | 'down' | 'page-up' | 'page-down', (rows: number) => number>> = {
  up: () => -1,
  down: () => 1,
  'page-up': (rows) => -Math.floor(rows / 2),
  'page-down': (rows) => Math.floor(rows / 2),
}
