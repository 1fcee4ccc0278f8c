import { DONE } from '../../exit-codes.ts'
import type { FoundBroker } from '../brokers.ts'
import type { Command } from '../command.ts'
import { paintFor, type Style } from '../output/colours.ts'
import { type Cell, table } from '../output/table.ts'
import type { Terminal } from '../output/terminal.ts'
import { SUMMARIES } from '../summaries.ts'

export const ls: Command = {
  name: 'ls',
  operands: [],
  summary: SUMMARIES.ls,
  details: [
    'Lists every broker of this user on this host, from any folder and without a configuration, those of `baton run` too. A broker',
    'whose master was killed is shown with the worker that goes on. Brokers in other network namespaces, such as containers, are not',
    'seen. The exit code is 0 also if there is none.',
  ].join('\n'),
  options: { json: { help: 'print an array of objects' } },
  async run({ switches }, terminal) {
    const { findBrokers } = await import('../brokers.ts')
    const brokers = (await findBrokers()).map(listed)
    if (switches.has('json')) terminal.out(JSON.stringify(brokers, undefined, 2))
    else if (brokers.length === 0) terminal.out('no broker of this user is running')
    else for (const line of describeBrokers(brokers, terminal)) terminal.out(line)
    return DONE
  },
}

/** A broker as `baton ls --json` prints it. Null where it does not answer, or is of a version that does not say. */
interface ListedBroker {
  readonly config: string | null
  /** The command that has started it. */
  readonly kind: 'start' | 'run' | null
  readonly runtimeDir: string
  readonly state: 'running' | 'busy' | 'no-master' | 'not-answering'
  /** The operation in progress, such as `deploy`. */
  readonly busy: string | null
  /** Of the master. */
  readonly pid: number | null
  readonly worker: number | null
  readonly startedAt: string | null
  readonly version: string | null
  readonly listeners: readonly { readonly name: string; readonly address: string }[] | null
  readonly services:
    | readonly { readonly name: string; readonly backends: number; readonly ready: number }[]
    | null
  readonly connections: number | null
}

function listed({ runtimeDir, status }: FoundBroker): ListedBroker {
  const {
    config = null,
    kind = null,
    startedAt = null,
    version = null,
    connections = null,
  } = status?.broker ?? {}
  const { listeners = null, services = null } = status?.broker ?? {}
  const busy = status?.master?.busy ?? null
  return {
    config,
    kind,
    runtimeDir,
    state: stateOf(status, busy),
    busy,
    pid: status?.master?.pid ?? null,
    worker: status?.workers.find(({ role }) => role === 'serving')?.pid ?? null,
    startedAt,
    version,
    listeners,
    services,
    connections,
  }
}

function stateOf(status: FoundBroker['status'], busy: string | null): ListedBroker['state'] {
  if (status === undefined) return 'not-answering'
  if (status.master === null) return 'no-master'
  return busy === null ? 'running' : 'busy'
}

const STYLES: Readonly<Record<ListedBroker['state'], Style>> = {
  running: 'green',
  busy: 'cyan',
  'no-master': 'yellow',
  'not-answering': 'red',
}

function describeBrokers(brokers: readonly ListedBroker[], terminal: Terminal): string[] {
  return table(
    [
      [
        'CONFIG',
        'KIND',
        'STATE',
        'PID',
        'UPTIME',
        'LISTENERS',
        'SERVICES',
        'READY',
        'CONNECTIONS',
        'VERSION',
      ],
      ...brokers.map((broker): Cell[] => {
        const { config, kind, runtimeDir, state, busy, pid, worker, startedAt, listeners, services } = broker
        return [
          config ?? `${runtimeDir}/`,
          kind ?? '-',
          { text: busy ?? state.replace('-', ' '), style: STYLES[state] },
          pid ?? (worker === null ? '-' : `worker ${worker}`),
          startedAt === null ? '-' : uptime(Date.now() - Date.parse(startedAt)),
          shortList(listeners?.map(({ name, address }) => `${name} ${address}`)),
          shortList(services?.map(({ name }) => name)),
          services === null ? '-' : readyOf(services),
          broker.connections ?? '-',
          broker.version ?? '-',
        ]
      }),
    ],
    paintFor(terminal),
  )
}

/** Names that are shown; the rest is counted. */
const SHOWN = 3

function shortList(names: readonly string[] | undefined): string {
  if (names === undefined || names.length === 0) return '-'
  const more = names.length - SHOWN
  return `${names.slice(0, SHOWN).join(', ')}${more > 0 ? `, ${more} more` : ''}`
}

function readyOf(services: NonNullable<ListedBroker['services']>): string {
  const sum = (of: 'ready' | 'backends') => services.reduce((total, service) => total + service[of], 0)
  return `${sum('ready')}/${sum('backends')}`
}

const UNITS = [
  ['d', 86_400],
  ['h', 3600],
  ['m', 60],
  ['s', 1],
] as const

/** The two largest units: `3d 4h`, `12m 5s`. */
function uptime(ms: number): string {
  let rest = Math.max(0, Math.floor(ms / 1000))
  const parts: string[] = []
  for (const [unit, seconds] of UNITS) {
    const count = Math.floor(rest / seconds)
    rest -= count * seconds
    if (count > 0 || parts.length > 0 || unit === 's') parts.push(`${count}${unit}`)
  }
  return parts.slice(0, 2).join(' ')
}
