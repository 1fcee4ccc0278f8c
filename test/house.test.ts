import t from 'tap'
import { circles, edgesOf, type Imports, isIn, readImports, siblings } from './support/imports.ts'

// A line's process can be read from its path. This test enforces the rooms (CONTRIBUTING.md describes them).

/** Each folder of the broker's sources and each file next to them, and what it may import: rooms, or single files of them. */
const ROOMS: Readonly<Record<string, readonly string[]>> = {
  // Shared vocabulary.
  'errors.ts': [],
  'version.ts': [],
  'package-files.ts': [],
  'node-http.ts': [],
  'exit-codes.ts': [],
  'early-signals.ts': [],
  'signals.ts': [],
  config: [],
  metrics: [],
  log: ['config'],
  supervise: ['config', 'log'],
  api: ['config', 'metrics'],
  listening: ['config', 'errors.ts'],
  'compile-cache.ts': ['listening/runtime-folder.ts'],
  ipc: ['api', 'config', 'metrics', 'supervise'],
  // The processes. A master and its workers share types and messages, but no code of either.
  master: [
    'api',
    'compile-cache.ts',
    'config',
    'early-signals.ts',
    'errors.ts',
    'exit-codes.ts',
    'ipc',
    'listening',
    'log',
    'metrics',
    'package-files.ts',
    'signals.ts',
    'supervise',
    'version.ts',
  ],
  worker: [
    'api',
    'compile-cache.ts',
    'config',
    'errors.ts',
    'ipc',
    'listening',
    'log',
    'metrics',
    'node-http.ts',
    'package-files.ts',
    'signals.ts',
    'supervise',
    'version.ts',
  ],
  // It becomes a master, or sends requests to one. `baton check` looks at runtimeDir.
  cli: [
    'api',
    'compile-cache.ts',
    'config',
    'early-signals.ts',
    'errors.ts',
    'exit-codes.ts',
    'ipc',
    'listening/runtime-folder.ts',
    'log',
    'master/early-worker.ts',
    'master/main.ts',
    'metrics',
    'node-http.ts',
    'package-files.ts',
    'programs.ts',
    'supervise',
    'version.ts',
  ],
  // Entry points: for apps that embed a worker, and for `baton check`, which loads what a reload would execute.
  'index.ts': ['config', 'errors.ts', 'worker/replaceable-worker.ts', 'worker/worker.ts'],
  'programs.ts': ['master/main.ts', 'worker/admin/server.ts', 'worker/supervised-worker.ts'],
}

/** A connection's path through a worker, and the reporting along it. Each room imports only the ones after it. */
const WAY = [
  'succession',
  'listen',
  'connection',
  'route',
  'service',
  'balance',
  'resume',
  'backend',
  'registry',
  'health',
  'relay',
  'hold',
  'park',
  'copies',
  'unclaimed',
  'reject',
  'control',
  'admin',
  'agent-check',
  'events',
  'recorder',
]

/** The connection itself: every room on the path knows it. */
const TRAVELLER = 'connection'

/** Exceptions: imports against the path's direction, with their reasons. */
const BACKWARDS: Readonly<Record<string, string>> = {
  'backend -> balance': 'a link is one of the candidates that are chosen among (a type)',
  'relay -> balance': 'so is an upstream (a type)',
  'registry -> service': 'a backend that has registered joins its service (a type)',
  'registry -> backend': 'beside the way: it makes the link and the lane of a backend that registers',
  'health -> backend':
    'beside the way: a check goes over the link of a backend, and changes whether it may be chosen (types)',
}

function forbidden(imports: Imports): string[] {
  const roomOf = (file: string) => file.split('/')[0] ?? ''
  return edgesOf(imports)
    .filter(([from, to]) => {
      const allowed = [roomOf(from), ...(ROOMS[roomOf(from)] ?? [])]
      return !allowed.some((place) => isIn(to, place))
    })
    .map((edge) => edge.join(' -> '))
}

/** As pairs of rooms: `backend -> balance`. */
function againstTheWay(imports: Imports): string[] {
  const placeOf = (file: string) => WAY.findIndex((room) => isIn(file, `worker/${room}`))
  const found = edgesOf(imports)
    .map(([from, to]) => [placeOf(from), placeOf(to)] as const)
    .filter(([from, to]) => to >= 0 && to < from && WAY[to] !== TRAVELLER)
    .map(([from, to]) => `${WAY[from]} -> ${WAY[to]}`)
  return [...new Set(found)].toSorted()
}

const lost: string[] = []
const broker = readImports('packages/broker/src', (file, path) => lost.push(`${file} -> ${path}`))

void t.test('the imports of the broker are found, and all of them lead to a file', async (t) => {
  t.same(lost, [])
  t.ok(edgesOf(broker).length > 2 * broker.size, `${edgesOf(broker).length} of ${broker.size} files`)
})

void t.test('every file has a room, and imports what its room may', async (t) => {
  const rooms = Object.keys(ROOMS)
  t.same(
    [...broker.keys()].filter((file) => !rooms.some((room) => isIn(file, room))),
    [],
  )
  t.same(forbidden(broker), [])
})

void t.test('no folders import each other, directly or through others', async (t) => {
  t.same(circles(siblings(broker)), [])
})

void t.test('no file imports itself through others, types included', async (t) => {
  t.same(circles(broker), [])
})

void t.test('the rooms on the path of a connection are imported in that order', async (t) => {
  const rooms = [...broker.keys()].map((file) => /^worker\/([^/]+)\//.exec(file)?.[1])
  t.same(
    [...new Set(rooms)].filter((room) => room !== undefined && !WAY.includes(room)),
    [],
    'every room of a worker has its place on the way',
  )
  // Exactly these: an exception that is no longer needed must be removed.
  t.same(againstTheWay(broker), Object.keys(BACKWARDS).toSorted())
})

void t.test('each rule can fail', async (t) => {
  const house = (edges: Record<string, string[]>): Imports => new Map(Object.entries(edges))
  const master = 'master/reload/resume.ts'
  const worker = 'worker/relay/dial.ts'
  t.same(forbidden(house({ [master]: [worker], [worker]: [master] })), [
    `${master} -> ${worker}`,
    `${worker} -> ${master}`,
  ])
  for (const [from, to] of [
    ['cli/commands/status.ts', 'master/fleet/status.ts'],
    ['cli/commands/status.ts', 'worker/admin/view.ts'],
    ['master/main.ts', 'cli/program.ts'],
    ['ipc/messages.ts', 'worker/events/rates.ts'],
    ['worker/worker.ts', 'programs.ts'],
    ['new-room/file.ts', 'config/config.ts'],
  ] as const)
    t.same(forbidden(house({ [from]: [to] })), [`${from} -> ${to}`])
  t.same(forbidden(house({ 'cli/commands/start.ts': ['master/main.ts'] })), [])

  const mutual = house({
    'worker/relay/upstream.ts': ['worker/backend/lane.ts'],
    'worker/backend/link.ts': ['worker/relay/dial.ts'],
  })
  t.same(circles(mutual), [])
  t.same(circles(siblings(mutual)), ['worker/relay -> worker/backend -> worker/relay'])
  const nested = house({ 'cli/program.ts': ['cli/commands/a.ts'], 'cli/commands/a.ts': ['cli/command.ts'] })
  t.same(circles(siblings(nested)), [], 'a folder and one within it are not side by side')
  t.same(circles(house({ 'a.ts': ['b.ts'], 'b.ts': ['c.ts'], 'c.ts': ['a.ts'] })), [
    'a.ts -> b.ts -> c.ts -> a.ts',
  ])

  t.same(againstTheWay(house({ 'worker/hold/queue.ts': ['worker/service/service.ts'] })), ['hold -> service'])
  t.same(againstTheWay(house({ 'worker/hold/queue.ts': ['worker/connection/connection.ts'] })), [])
})
