import { loadConfig } from '../../config/config.ts'
import { paintFor } from '../output/colours.ts'
import { configOption, DEFAULT_CONFIG, type Command } from '../command.ts'
import type { Display, Terminal } from '../output/terminal.ts'
import { DONE, CommandError } from '../../exit-codes.ts'
import { depth, fit } from '../top/fit.ts'
import { frameOf, handoffsPerSecond, linesOf } from '../top/frame.ts'
import { type Key, Screen } from '../top/screen.ts'
import type { Snapshot } from '../top/snapshot.ts'
import { type Observation, watch } from '../top/watch.ts'

/** Of so many seconds the handoffs are drawn. */
const HISTORY = 60

const FOOT = 'q quits, arrows scroll'

export const top: Command = {
  name: 'top',
  operands: [],
  summary: 'watch services and backends live',
  details: [
    'Shows once a second what the broker does: connections and handoffs a second, latency of the last 10 s, who waits,',
    'why connections fell back or were rejected, and every backend. q or Ctrl-C ends it. Where standard output is no',
    'terminal, each second is one line for each service, key=value. Goes on over a reload.',
  ].join('\n'),
  options: {
    once: { help: 'print one picture, after watching for a second, and end' },
    ...configOption,
  },
  async run({ values, switches }, terminal) {
    const file = values.get('config') ?? DEFAULT_CONFIG
    // What is wrong with the file is said here; later on, a file that is being edited is read again.
    loadConfig(file)
    const end = new AbortController()
    terminal.unread?.addEventListener('abort', () => end.abort())
    const looks = watch(() => loadConfig(file), end.signal)
    if (switches.has('once')) await printOnce(looks, terminal)
    else if (terminal.display === undefined) await printLines(looks, terminal)
    else await drawLive(looks, terminal.display, terminal, end)
    end.abort()
    return DONE
  },
}

/** The first snapshot has no rates: they need a second to be measured in. */
async function printOnce(looks: AsyncIterable<Observation>, terminal: Terminal): Promise<void> {
  let seen = 0
  for await (const look of looks) {
    if (look.kind === 'lost') throw new CommandError(look.message)
    seen += 1
    if (seen < 2) continue
    const { head, body } = frameOf(look.snapshot, { paint: paintFor(terminal), history: [] })
    for (const line of [...head, ...body]) terminal.out(line)
    return
  }
}

async function printLines(looks: AsyncIterable<Observation>, terminal: Terminal): Promise<void> {
  let seen = 0
  let lost = false
  for await (const look of looks) {
    if (look.kind === 'lost') {
      if (seen === 0) throw new CommandError(look.message)
      if (!lost) terminal.err(`baton: ${look.message} (trying again)`)
      lost = true
      continue
    }
    lost = false
    seen += 1
    if (seen > 1) for (const line of linesOf(look.snapshot)) terminal.out(line)
  }
}

async function drawLive(
  looks: AsyncIterable<Observation>,
  display: Display,
  terminal: Terminal,
  end: AbortController,
): Promise<void> {
  const paint = paintFor(terminal)
  const history: number[] = []
  let snapshot: Snapshot | undefined
  let lost: string | undefined
  let offset = 0

  const screen = new Screen(display, (key) => obey(key))
  const draw = () => {
    if (snapshot === undefined) return
    const frame = frameOf(snapshot, { paint, history, lost })
    offset = Math.min(Math.max(0, offset), depth(frame, screen.size.rows))
    screen.draw(fit(frame, screen.size, { offset, foot: paint('dim', FOOT) }))
  }
  const obey = (key: Key) => {
    if (key === 'quit') return end.abort()
    if (key === 'suspend') return screen.suspend()
    if (key !== 'redraw') offset += STEPS[key](screen.size.rows)
    draw()
  }

  try {
    for await (const look of looks) {
      if (look.kind === 'lost') {
        // Nothing was there from the beginning: said as every other command says it.
        if (snapshot === undefined) throw new CommandError(look.message)
        lost = look.message
      } else {
        if (snapshot === undefined) screen.open()
        ;({ snapshot } = look)
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
