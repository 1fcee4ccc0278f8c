import type { ServiceStatus, Status } from '../../api/status.ts'
import { locate } from '../configuration.ts'
import type { InstanceStatusState, MasterStatus } from '../../api/master-status.ts'
import { readyCell, stateCell } from '../output/cells.ts'
import { type Paint, paintFor, type Style } from '../output/colours.ts'
import { configOption, DEFAULT_CONFIG, type Command } from '../command.ts'
import { masterStatus } from '../../ipc/operator-client.ts'
import { askStatus } from '../answers.ts'
import { describeListeners } from '../output/listeners.ts'
import { printable } from '../../log/printable.ts'
import { table } from '../output/table.ts'
import { DONE } from '../../exit-codes.ts'
import { SUMMARIES } from '../summaries.ts'

export const status: Command = {
  name: 'status',
  operands: [],
  summary: SUMMARIES.status,
  details: [
    'Shows the state of the running broker. An instance (web.1) is one of the processes that Baton keeps running for a service; a',
    'deploy puts a new process in its place. A backend (web/web-2) is a registered process. Its slot (web-2) is the first number',
    'that was free when it registered, so during a deploy old and new process have different slots. Routes and limits of listeners',
    'are shown where there are any: of header fields and cookies the names, since their values may be secret.',
  ].join('\n'),
  options: { json: { help: 'print the response of the admin API' }, ...configOption },
  async run({ values, switches }, terminal) {
    const config = await locate(values.get('config') ?? DEFAULT_CONFIG)
    const answer = await askStatus(config)
    const master = await masterStatus(config.runtimeDir)
    // The master's `broker` is what `baton ls` shows, and would hide the one of the API.
    if (switches.has('json')) terminal.out(JSON.stringify({ ...master, ...answer }, undefined, 2))
    else {
      const paint = paintFor(terminal)
      const hasNoMaster = master?.master === null
      for (const line of [
        ...describeStatus(answer, hasNoMaster, paint),
        ...describeManaged(master, answer, paint),
      ])
        terminal.out(line)
    }
    return DONE
  },
}

const OF_INSTANCE: Readonly<Record<InstanceStatusState, Style>> = {
  running: 'green',
  starting: 'cyan',
  stopping: 'yellow',
  backoff: 'yellow',
  crashed: 'red',
}

function describeManaged(master: MasterStatus | undefined, { services }: Status, paint: Paint): string[] {
  if (master === undefined || master.managed.length === 0) return []
  const slots = new Map(
    services.flatMap(({ name, backends }) => backends.map(({ id, slot }) => [id, `${name}/${slot}`])),
  )
  const scaled = (master.scaled ?? []).map(({ service, instances, configured }) => {
    const text = `${service} is scaled to ${instances}; the configuration says ${configured}`
    return paint('yellow', printable(text))
  })
  return [
    '',
    ...table(
      [
        ['INSTANCE', 'STATE', 'PID', 'RESTARTS', 'GENERATION', 'VERSION', 'SINCE', 'BACKEND'],
        ...master.managed.map(({ instance, state, pid, restarts, generation, version, since, backend }) => [
          instance,
          { text: state, style: OF_INSTANCE[state] },
          pid ?? '-',
          restarts,
          generation,
          version ?? '-',
          since,
          (backend === null ? undefined : slots.get(backend)) ?? '-',
        ]),
      ],
      paint,
    ),
    ...scaled,
  ]
}

function describeStatus(
  { broker, listeners, services }: Status,
  hasNoMaster: boolean,
  paint: Paint,
): string[] {
  const backends = services.flatMap((service) => service.backends.map((backend) => ({ service, backend })))
  const state = broker.state === 'running' ? broker.state : paint('yellow', broker.state)
  return [
    `broker ${broker.id}: ${state}, version ${broker.version}, pid ${broker.pid}, since ${broker.startedAt}`,
    ...(broker.master === null ? [] : [`master (send signals to it): pid ${broker.master}`]),
    ...(hasNoMaster ? [paint('yellow', 'no master: it was killed; "baton start" takes over')] : []),
    '',
    ...describeListeners(listeners, paint),
    '',
    ...table(
      [
        [
          'SERVICE',
          'READY',
          'HELD',
          'PARKED',
          'IN FLIGHT',
          'STUCK',
          'HANDED OFF',
          'HANDED BACK',
          'RELAYED',
          'REJECTED',
        ],
        ...services.map((service) => [
          service.name,
          readyCell(service),
          service.held,
          service.parked,
          service.inFlight,
          service.stuck,
          service.outcomes.handed_off,
          service.handedBack,
          service.outcomes.relayed,
          service.outcomes.rejected,
        ]),
      ],
      paint,
    ),
    ...services.flatMap((service) => describeControl(service, paint)),
    ...services.flatMap((service) => describeShift(service, paint)),
    ...services.flatMap((service) => describeNotTaken(service, paint)),
    '',
    ...(backends.length === 0
      ? ['no backend is registered']
      : table(
          [
            ['BACKEND', 'STATE', 'LOAD', 'HANDED BACK', 'WEIGHT', 'PID', 'LAG MS', 'VERSION', 'ID'],
            ...backends.map(({ service, backend }) => [
              `${service.name}/${backend.slot}`,
              stateCell(backend),
              backend.load,
              backend.handedBack,
              backend.weight,
              backend.pid,
              backend.lagMs === null ? '-' : backend.lagMs.toFixed(1),
              backend.version ?? '-',
              backend.id,
            ]),
          ],
          paint,
        )),
  ]
}

/** Only where an operator has ordered something. */
function describeControl({ name, held, paused, maintenance }: ServiceStatus, paint: Paint): string[] {
  const lines: string[] = []
  if (paused)
    lines.push(
      `${name} is paused since ${paused.since}${paused.until === null ? '' : `, until ${paused.until}`}: ${held} held; baton resume ${name}`,
    )
  if (maintenance)
    lines.push(
      `${name} is in maintenance since ${maintenance.since}; baton maintenance ${name} --off ends it`,
    )
  return lines.map((line) => paint('yellow', printable(line)))
}

/** Only while one is in force. */
function describeShift({ name, shift, backends }: ServiceStatus, paint: Paint): string[] {
  if (shift === null || shift === undefined) return []
  const { to, share, canary } = shift
  const isThere = backends.some(({ version, state }) => version === to && state === 'ready')
  const parts = [
    `${name}: ${share}% of new connections go to version ${to}`,
    ...(canary ? ['a canary'] : []),
    ...(isThere ? [] : ['none of its backends is ready']),
  ]
  return [paint('yellow', printable(parts.join('; ')))]
}

/** Only where there are any: connections that backends could not hand back. */
function describeNotTaken({ name, givenBack, handBacksRefused }: ServiceStatus, paint: Paint): string[] {
  const parts = [
    ...(givenBack > 0 ? [`${givenBack} were given back to their backend`] : []),
    ...(handBacksRefused > 0 ? [`${handBacksRefused} were refused: a backend broke the protocol`] : []),
  ]
  if (parts.length === 0) return []
  return [paint('yellow', printable(`of the connections handed back by ${name}, ${parts.join('; ')}`))]
}
