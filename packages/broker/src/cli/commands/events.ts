import { setTimeout as pause } from 'node:timers/promises'
import { loadConfig } from '../../config/config.ts'
import type { Change } from '../../api/events.ts'
import { RefusedError } from '../admin-client.ts'
import { paintFor, styleOfState, type Paint } from '../output/colours.ts'
import { configOption, DEFAULT_CONFIG, type Command } from '../command.ts'
import { brokerEvents } from '../event-stream.ts'
import { printable } from '../../log/printable.ts'
import { checkedStatus } from '../answers.ts'
import type { Terminal } from '../output/terminal.ts'
import { DONE, CommandError } from '../../exit-codes.ts'

/** From one attempt to the next. A stream that has lasted for longer is opened again at once: a reload has its successor ready. */
const RETRY_MS = 1000

type TimedChange = Change & { readonly at: string }

export const events: Command = {
  name: 'events',
  operands: [],
  summary: 'follow what changes',
  details: [
    'Prints a line for each change from now on: backends that register, leave or change their state, drains, reloads.',
    'Goes on over a reload, and waits for a broker that is gone; what changed before the next one answered is not told.',
    'Ctrl-C ends it.',
  ].join('\n'),
  options: {
    json: { help: 'print each change as the admin API sends it, one JSON text a line' },
    ...configOption,
  },
  async run({ values, switches }, terminal) {
    const file = values.get('config') ?? DEFAULT_CONFIG
    loadConfig(file)
    const print = switches.has('json')
      ? (data: unknown) => terminal.out(JSON.stringify(data))
      : (data: unknown) => terminal.out(lineOf(checkedChange(data), paintFor(terminal)))
    await follow(file, print, terminal)
    return DONE
  },
}

/** Ends when nobody reads any more. */
async function follow(file: string, print: (data: unknown) => void, terminal: Terminal): Promise<void> {
  const signal = terminal.unread ?? new AbortController().signal
  let worker: string | undefined
  let lost = false
  while (!signal.aborted) {
    const began = performance.now()
    try {
      // Read anew: a reload may have moved the address, or changed the token.
      for await (const { event, data } of brokerEvents(loadConfig(file), signal)) {
        if (event === 'status') {
          const { id, version } = checkedStatus(Object(data).status).broker
          if (lost || (worker !== undefined && worker !== id))
            terminal.err(printable(`baton: connected again, to worker ${id} of version ${version}`))
          worker = id
          lost = false
        }
        if (event === 'change') print(data)
      }
    } catch (error) {
      if (signal.aborted) return
      if (worker === undefined) throw foreseen(error)
      if (!lost)
        terminal.err(`baton: ${error instanceof Error ? error.message : String(error)} (trying again)`)
      lost = true
    }
    const lasted = lost ? 0 : performance.now() - began
    await pause(Math.max(0, RETRY_MS - lasted), undefined, { signal }).catch(() => {})
  }
}

function foreseen(error: unknown): unknown {
  if (!(error instanceof RefusedError) || error.code !== 'BATON_ERR_ADMIN_NO_ROUTE') return error
  return new CommandError('the broker has no events; is it of another version?', { cause: error })
}

function checkedChange(data: unknown): TimedChange {
  const { at, kind, text } = Object(data)
  if ([at, kind, text].every((member) => typeof member === 'string')) return data as TimedChange
  throw new CommandError('the broker sent something else than a change; is it of another version?')
}

/** `2026-01-02T03:04:05.678Z  backend_state  web/web-1  text`. */
function lineOf({ at, kind, service, backend, to, by, text }: TimedChange, paint: Paint): string {
  const whose = [service, backend?.slot].filter((part) => part !== undefined).join('/')
  const style = to === undefined ? undefined : styleOfState(to)
  const said = printable(by === undefined || text.includes(by) ? text : `${text} (by ${by})`)
  return [
    paint('dim', printable(at)),
    printable(kind).padEnd(KIND_WIDTH),
    ...(whose === '' ? [] : [paint('bold', printable(whose))]),
    style === undefined ? said : paint(style, said),
  ].join('  ')
}

/** Of `backend_deregistered`, the longest. */
const KIND_WIDTH = 20
