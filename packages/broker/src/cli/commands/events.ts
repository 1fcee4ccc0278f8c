import { setTimeout as pause } from 'node:timers/promises'
import { locate } from '../configuration.ts'
import type { Change } from '../../api/events.ts'
import { RefusedError, unexpectedAnswer } from '../admin-client.ts'
import { paintFor, styleOfState, type Paint } from '../output/colours.ts'
import { configOption, DEFAULT_CONFIG, type Command } from '../command.ts'
import { brokerEvents } from '../event-stream.ts'
import { printable } from '../../log/printable.ts'
import { checkedStatus, otherVersion } from '../answers.ts'
import type { Terminal } from '../output/terminal.ts'
import { DONE } from '../../exit-codes.ts'
import { SUMMARIES } from '../summaries.ts'

/** Between attempts to connect. A stream that lasted longer is reopened at once: after a reload the successor is ready. */
const RETRY_MS = 1000

type TimedChange = Change & { readonly at: string }

export const events: Command = {
  name: 'events',
  operands: [],
  summary: SUMMARIES.events,
  details: [
    'Prints a line for each change: backends that register, leave or change state, drains and what they hand back, reloads,',
    'deploys. Continues across reloads, and reconnects to a broker that was restarted; changes that happened in between are not',
    'shown. Ctrl-C quits.',
  ].join('\n'),
  options: {
    json: { help: 'print each change as the admin API sends it, one JSON object per line' },
    ...configOption,
  },
  async run({ values, switches }, terminal) {
    const file = values.get('config') ?? DEFAULT_CONFIG
    await locate(file)
    const print = switches.has('json')
      ? (data: unknown) => terminal.out(JSON.stringify(data))
      : (data: unknown) => terminal.out(lineOf(checkedChange(data), paintFor(terminal)))
    await follow(file, print, terminal)
    return DONE
  },
}

/** Returns when standard output has no reader left. */
async function follow(file: string, print: (data: unknown) => void, terminal: Terminal): Promise<void> {
  const signal = terminal.unread ?? new AbortController().signal
  let worker: string | undefined
  let lost = false
  while (!signal.aborted) {
    const began = performance.now()
    try {
      // Loaded again: a reload may have changed the address or the token.
      for await (const { event, data } of brokerEvents(await locate(file), signal)) {
        if (event === 'status') {
          const { id, version } = checkedStatus(Object(data).status).broker
          if (lost || (worker !== undefined && worker !== id))
            terminal.err(printable(`baton: reconnected to worker ${id}, version ${version}`))
          worker = id
          lost = false
        }
        if (event === 'change') print(data)
      }
    } catch (error) {
      if (signal.aborted) return
      if (worker === undefined) throw withoutEvents(error)
      if (!lost) terminal.err(`baton: ${error instanceof Error ? error.message : String(error)} (retrying)`)
      lost = true
    }
    const lasted = lost ? 0 : performance.now() - began
    await pause(Math.max(0, RETRY_MS - lasted), undefined, { signal }).catch(() => {})
  }
}

/** A broker of an older version. */
function withoutEvents(error: unknown): unknown {
  if (!(error instanceof RefusedError) || error.code !== 'BATON_ERR_ADMIN_NO_ROUTE') return error
  return unexpectedAnswer('the broker has no events; is it a different version?', { cause: error })
}

function checkedChange(data: unknown): TimedChange {
  const { at, kind, text } = Object(data)
  if ([at, kind, text].every((member) => typeof member === 'string')) return data as TimedChange
  throw otherVersion('a change')
}

/** `2026-01-02T03:04:05.678Z  backend_state  web/web-1  text`. */
function lineOf({ at, kind, service, backend, to, by, text }: TimedChange, paint: Paint): string {
  const subject = [service, backend?.slot].filter((part) => part !== undefined).join('/')
  const style = to === undefined ? undefined : styleOfState(to)
  const message = printable(by === undefined || text.includes(by) ? text : `${text} (by ${by})`)
  return [
    paint('dim', printable(at)),
    printable(kind).padEnd(KIND_WIDTH),
    ...(subject === '' ? [] : [paint('bold', printable(subject))]),
    style === undefined ? message : paint(style, message),
  ].join('  ')
}

/** The length of `backend_deregistered`, the longest kind. */
const KIND_WIDTH = 20
