import type { FlightRecord, RecordedStep } from '../../api/flight-record.ts'
import { measureCell } from './cells.ts'
import type { Paint, Style } from './colours.ts'
import { printable } from '../../log/printable.ts'
import { table, type Cell } from './table.ts'

/** Columns of the drawing. */
const WIDTH = 32

const OF_OUTCOME: Readonly<Record<string, Style>> = {
  handed_off: 'green',
  relayed: 'cyan',
  moved: 'cyan',
  rejected: 'red',
  client_gone: 'yellow',
  relinquished: 'yellow',
  idle_closed: 'dim',
}

/** Colours of steps; the others have none. */
const OF_STEP: Readonly<Record<string, Style>> = {
  ...OF_OUTCOME,
  acknowledged: 'green',
  returned: 'yellow',
  held: 'yellow',
  handed_back: 'cyan',
  parked: 'dim',
  resumed: 'green',
}

/** One connection: a summary, then its steps, each drawn from the end of the previous one. */
export function describeRecord(record: FlightRecord, paint: Paint): string[] {
  const { id, service, listener, peer, acceptedAt, reason, backend, steps } = record
  const last = Math.max(0, ...steps.map(({ at }) => at))
  return [
    `connection ${printable(id)}: ${outcomeOf(record, paint)}${reason === null ? '' : ` (${printable(reason)})`}`,
    printable(`service ${service}, listener ${listener}, client ${peer}, accepted ${acceptedAt}`),
    ...(backend === null ? [] : [printable(`backend ${service}/${backend.slot}, ${backend.id}`)]),
    '',
    ...table(
      [
        ['AT MS', `0 ${`${last.toFixed(3)} ms`.padStart(WIDTH - 2)}`, 'STEP', 'BACKEND', 'REASON'],
        ...steps.flatMap(({ at, step, backend: slot, reason: why, omitted }, index): Cell[][] => [
          ...(omitted === undefined
            ? []
            : [['...', '', { text: `${omitted} steps`, style: 'dim' } as const]]),
          [
            measureCell(at, 3),
            stretch(steps[index - 1]?.at ?? 0, at, last),
            { text: step, style: styleOf(OF_STEP, step) },
            slot ?? '',
            why ?? '',
          ],
        ]),
      ],
      paint,
    ),
  ]
}

/** One line per record, with the steps that were not part of a plain handoff. */
export function listRecords(records: readonly FlightRecord[], paint: Paint): string[] {
  return table(
    [
      ['ID', 'SERVICE', 'OUTCOME', 'MS', 'BACKEND', 'STEPS', 'ACCEPTED', 'DETOURS'],
      ...records.map(({ id, service, outcome, durationMs, backend, steps, acceptedAt }): Cell[] => [
        id,
        service,
        outcomeCell(outcome, steps),
        measureCell(durationMs, 3),
        backend?.slot ?? '-',
        steps.length,
        acceptedAt,
        detours(steps),
      ]),
    ],
    paint,
  )
}

function outcomeCell(outcome: FlightRecord['outcome'], steps: readonly RecordedStep[]): Cell {
  if (outcome !== null) return { text: outcome, style: styleOf(OF_OUTCOME, outcome) }
  return isParked(steps) ? { text: 'parked', style: 'dim' } : { text: 'not yet', style: 'yellow' }
}

function isParked(steps: readonly RecordedStep[]): boolean {
  return steps.at(-1)?.step === 'parked'
}

function outcomeOf({ outcome, durationMs, steps }: FlightRecord, paint: Paint): string {
  if (outcome === null && isParked(steps)) return 'parked, until its next request'
  if (outcome === null) return paint('yellow', 'not yet settled')
  const style = styleOf(OF_OUTCOME, outcome)
  const shown = style === undefined ? printable(outcome) : paint(style, outcome)
  // The time that it was idle says nothing.
  return durationMs === null || outcome === 'idle_closed'
    ? shown
    : `${shown} after ${durationMs.toFixed(3)} ms`
}

/** The steps that are not part of a plain handoff: `returned by web-1: BackendGone, held`. */
function detours(steps: readonly RecordedStep[]): string {
  const all = steps
    .filter(({ step }) =>
      ['returned', 'held', 'relay_offered', 'moved', 'handed_back', 'resumed'].includes(step),
    )
    .map(({ step, backend, reason }) =>
      [step, backend === undefined ? '' : ` by ${backend}`, reason === undefined ? '' : `: ${reason}`].join(
        '',
      ),
    )
  return all.length === 0 ? '-' : all.join(', ')
}

/** Draws a step on a scale from 0 to `last`: a line for its duration, a dot where it ended. */
function stretch(from: number, to: number, last: number): string {
  const column = (at: number) => (last === 0 ? 0 : Math.round((at / last) * (WIDTH - 1)))
  const [begin, end] = [column(from), column(to)]
  return `${' '.repeat(begin)}${'─'.repeat(Math.max(0, end - begin))}●`
}

function styleOf(styles: Readonly<Record<string, Style>>, name: string): Style | undefined {
  return Object.hasOwn(styles, name) ? styles[name] : undefined
}
