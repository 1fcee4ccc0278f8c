import type { Status } from '../admin/index.ts'
import { loadConfig } from '../config/index.ts'
import { askBroker } from './admin-client.ts'
import { configOption, DEFAULT_CONFIG, type Command } from './command.ts'
import { type MasterStatus, masterStatus } from './master-status.ts'
import { table } from './table.ts'
import { CommandError, DONE } from './terminal.ts'

export const status: Command = {
  name: 'status',
  operands: [],
  summary: 'show listeners, services and backends',
  details: 'Asks the running broker, through the admin server that the configuration names.',
  options: { json: { help: 'print what the admin API answers' }, ...configOption },
  async run({ values, switches }, terminal) {
    const config = loadConfig(values.get('config') ?? DEFAULT_CONFIG)
    const answer = await askBroker(config, 'GET', '/api/v1/status')
    if (!isStatus(answer))
      throw new CommandError('the broker answered without a status; is it of another version?')
    const master = await masterStatus(config.runtimeDir)
    if (switches.has('json')) terminal.out(JSON.stringify({ ...answer, ...master }, undefined, 2))
    else for (const line of [...describeStatus(answer), ...describeManaged(master)]) terminal.out(line)
    return DONE
  },
}

function describeManaged(master: MasterStatus | undefined): string[] {
  if (master === undefined || master.managed.length === 0) return []
  return [
    '',
    ...table([
      ['INSTANCE', 'STATE', 'PID', 'RESTARTS', 'GENERATION', 'VERSION', 'SINCE', 'BACKEND'],
      ...master.managed.map(({ instance, state, pid, restarts, generation, version, since, backend }) => [
        instance,
        state,
        pid ?? '-',
        restarts,
        generation,
        version ?? '-',
        since,
        backend ?? '-',
      ]),
    ]),
  ]
}

function isStatus(answer: unknown): answer is Status {
  const { broker, listeners, services } = Object(answer)
  return typeof broker === 'object' && Array.isArray(listeners) && Array.isArray(services)
}

export function describeStatus({ broker, listeners, services }: Status): string[] {
  const backends = services.flatMap((service) => service.backends.map((backend) => ({ service, backend })))
  return [
    `broker ${broker.id}: ${broker.state}, version ${broker.version}, pid ${broker.pid}, since ${broker.startedAt}`,
    '',
    ...table([
      ['LISTENER', 'ADDRESS', 'PROTOCOL', 'SERVICE', 'ACCEPTED'],
      ...listeners.map(({ name, address, protocol, service, accepted }) => [
        name,
        address,
        protocol,
        service,
        accepted,
      ]),
    ]),
    '',
    ...table([
      ['SERVICE', 'READY', 'HELD', 'IN FLIGHT', 'STUCK', 'HANDED OFF', 'REJECTED'],
      ...services.map((service) => [
        service.name,
        `${service.backends.filter(({ state }) => state === 'ready').length}/${service.backends.length}`,
        service.held,
        service.inFlight,
        service.stuck,
        service.outcomes.handed_off,
        service.outcomes.rejected,
      ]),
    ]),
    '',
    ...(backends.length === 0
      ? ['no backend is registered']
      : table([
          ['BACKEND', 'STATE', 'LOAD', 'WEIGHT', 'PID', 'LAG MS', 'VERSION', 'ID'],
          ...backends.map(({ service, backend }) => [
            `${service.name}/${backend.slot}`,
            backend.state,
            backend.load,
            backend.weight,
            backend.pid,
            backend.lagMs === null ? '-' : backend.lagMs.toFixed(1),
            backend.version ?? '-',
            backend.id,
          ]),
        ])),
  ]
}
