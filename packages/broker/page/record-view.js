import { element, row, svg, table } from './element.js'
import { count, precisely, timeOfDay } from './format.js'

/** @import { FlightRecord } from './shapes.d.ts' */

/** Explanations of the steps of a flight record. An unknown step is shown by name only. @type {Readonly<Record<string, string>>} */
const MEANINGS = {
  accepted: 'accepted from the kernel',
  chosen: 'backend chosen',
  offered: 'descriptor and token sent',
  relay_offered: 'relay offered',
  acknowledged: 'token verified, acknowledged',
  returned: 'returned untouched',
  held: 'held, unread',
  released: 'the broker has closed its descriptor',
  relayed: 'the broker carries its bytes',
  rejected: 'rejected',
  client_gone: 'the client disconnected',
  relinquished: 'given up: taken by a backend that never answered',
  moved: 'sent to the next worker',
  closed: 'the relay has ended',
  handed_back: 'handed back by the backend, alive',
  parked: 'idle, with the broker',
  awake: 'its next request has arrived',
  idle_closed: 'ended while parked',
  resumed: 'another backend goes on with it',
}

const COLUMNS = [
  { title: 'After', className: 'number' },
  { title: 'Step', className: 'wide' },
  { title: 'Backend' },
  { title: 'Reason' },
  { title: 'Took', className: 'number' },
  { title: 'When', className: 'track' },
]

const TRACK = 100

/**
 * One connection, from accept to its outcome, step by step.
 *
 * @param {FlightRecord} record
 * @param {() => void} onClose
 * @returns {(HTMLElement)[]}
 */
export function recordView(record, onClose) {
  const close = element('button', { type: 'button' }, 'Close record')
  close.addEventListener('click', onClose)
  const heading = element(
    'h3',
    { id: 'record-title', tabindex: '-1' },
    'Connection ',
    element('code', {}, record.id),
  )
  const facts = [
    ['service', record.service],
    ['listener', record.listener],
    ['client', record.peer],
    ['accepted', `${timeOfDay(record.acceptedAt)}.${record.acceptedAt.slice(20, 23)}`],
    ['outcome', record.outcome ?? (record.steps.at(-1)?.step === 'parked' ? 'parked' : 'in progress')],
    ['reason', record.reason],
    ['backend', record.backend?.slot],
    ['took', record.durationMs === null ? null : precisely(record.durationMs)],
  ]
    .filter(([, value]) => value !== null && value !== undefined)
    .map(([term, value]) => element('div', {}, element('dt', {}, term ?? ''), element('dd', {}, value ?? '')))
  return [
    element('div', { class: 'heading' }, heading, close),
    element('dl', { class: 'facts', 'aria-label': 'Summary' }, ...facts),
    steps(record),
  ]
}

/** @param {FlightRecord} record */
function steps({ steps: taken }) {
  const { table: made, body } = table('Steps', COLUMNS)
  const whole = Math.max(...taken.map(({ at }) => at), 0.001)
  taken.forEach(({ at, step, backend, reason, omitted }, index) => {
    if (omitted !== undefined) {
      const left = element('span', { class: 'muted' }, `${count(omitted)} steps are not kept`)
      body.append(row(COLUMNS, ['', left, '', '', '', '']))
    }
    const before = taken[index - 1]?.at ?? 0
    const name = element(
      'span',
      {},
      element('code', {}, step),
      element('span', { class: 'muted' }, ` ${MEANINGS[step] ?? ''}`),
    )
    body.append(
      row(COLUMNS, [
        precisely(at),
        name,
        backend ?? '',
        reason ?? '',
        index === 0 ? '' : precisely(at - before),
        track(before / whole, at / whole),
      ]),
    )
  })
  return element('div', { class: 'cards' }, made)
}

/**
 * Draws when in the record's time span the step took place. Hidden from screen readers: the row has the same as figures.
 *
 * @param {number} from
 * @param {number} to
 */
function track(from, to) {
  const x = String(from * TRACK)
  const width = String(Math.max((to - from) * TRACK, 0))
  return svg(
    'svg',
    { viewBox: `0 0 ${TRACK} 8`, preserveAspectRatio: 'none', class: 'waterfall', 'aria-hidden': 'true' },
    svg('rect', { class: 'span', x, y: '2', width, height: '4' }),
    svg('rect', {
      class: 'tick',
      x: String(Math.min(to * TRACK, TRACK - 1)),
      y: '0',
      width: '1',
      height: '8',
    }),
  )
}
