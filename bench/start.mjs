// node bench/start.mjs [--rounds 5] [--node LINE]... [--quick] [--no-write]
//
// Wall times of commands, starts and reloads, in turns: bare Node, Baton as it is, and as it was before its packages were bundled (left
// out in a clone without that history). And the private memory of master and worker. `--node` runs it on the newest release of a line of
// Node, like 24, which is installed first. Only the ratios are of use: the machine may be busy. Five rounds or more are written into
// docs/explanation/performance.md.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync, writeFileSync } from 'node:fs'
import { connect } from 'node:net'
import { join } from 'node:path'
import { setTimeout as elapsed } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import { buildOld, history, OLD } from '../scripts/old-build.mjs'
import { SpeakingChild } from '../test/programs/speaking-child.mjs'
import { onEachLine } from './lines.mjs'
import { NODE_LINE, PERFORMANCE, writePart } from './report/page.mjs'
import { markdownTable } from './report/table.mjs'
import { rotated } from './rounds.mjs'
import { atEnd, endOnSignals, freePort, kill, program, temporaryFolder } from './scratch.mjs'
import { summary } from './statistics.mjs'

const { values } = parseArgs({
  options: {
    rounds: { type: 'string' },
    node: { type: 'string', multiple: true },
    quick: { type: 'boolean', default: false },
    'no-write': { type: 'boolean', default: false },
  },
})
const rounds = Number(values.rounds ?? (values.quick ? 1 : 5))
const isWritten = !values.quick && !values['no-write'] && rounds >= 5
if (values.node !== undefined) process.exit(onEachLine(values.node, import.meta.url) ? 0 : 1)
endOnSignals()
// Node 20 reads the certificates that it names at each start, which takes longer than the rest of an empty program.
delete process.env.NODE_EXTRA_CA_CERTS

/** An app in plain Node, which knows nothing of Baton. */
const APP = `require('node:http').createServer((_, response) => response.end('here\\n')).listen(Number(process.env.PORT), '127.0.0.1')`
/** The same with the SDK. */
const BACKEND = `import http from 'node:http'
const { createBackend } = await import(process.env.SDK)
const server = http.createServer((_, response) => response.end('here\\n'))
const backend = createBackend()
backend.attach(server)
await backend.ready()
`
const BACKENDS = 2

const folder = temporaryFolder()
const app = join(folder, 'app.cjs')
writeFileSync(app, APP)
const backend = join(folder, 'backend.mjs')
writeFileSync(backend, BACKEND)

const bare = { name: 'bare Node', sample: sampleOfNode }
const now = { name: 'Baton', sample: () => sampleOf(program('packages/broker')) }
const peers = [bare, now]
const archive = history()
if (archive === undefined) console.error(`left out: ${OLD}, which this clone does not have`)
else {
  const old = temporaryFolder()
  await buildOld(archive, old)
  peers.push({ name: OLD, sample: () => sampleOf(join(old, 'packages/broker')) })
}

const samples = new Map(peers.map(({ name }) => [name, []]))
for (let round = 0; round < rounds; round++)
  for (const { name, sample } of rotated(peers, round)) samples.get(name).push(await sample())
report()

/** Milliseconds of a program from its start to its exit. */
async function runOf(args, options = {}) {
  const begun = performance.now()
  const child = spawn(process.execPath, args, { stdio: ['ignore', 'ignore', 'inherit'], ...options })
  const [code] = await once(child, 'exit')
  if (code !== (options.code ?? 0)) throw new Error(`${args.join(' ')} exited with ${code}`)
  return performance.now() - begun
}

/** Milliseconds from the start of a program to the first answer on `port`; it is ended then. */
async function firstAnswer(args, port, env) {
  const begun = performance.now()
  const child = spawn(process.execPath, args, {
    cwd: folder,
    stdio: ['ignore', 'ignore', 'inherit'],
    env: { ...process.env, PORT: String(port), ...env },
  })
  const hasEnded = atEnd(() => child.kill('SIGKILL'))
  while (!(await answers(port))) await elapsed(1)
  const took = performance.now() - begun
  child.kill('SIGTERM')
  await once(child, 'exit')
  hasEnded()
  return took
}

/** Whether a request to `port` is answered. */
async function answers(port) {
  const socket = connect({ port, host: '127.0.0.1' })
  try {
    await once(socket, 'connect')
    socket.write('GET / HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n')
    await once(socket, 'data')
    return true
  } catch {
    return false
  } finally {
    socket.destroy()
  }
}

/** Private memory of a process, in MB. */
function privateMemory(pid) {
  const text = readFileSync(`/proc/${pid}/smaps_rollup`, 'utf8')
  const kilobytes = ['Private_Clean', 'Private_Dirty'].map((name) =>
    Number(new RegExp(`^${name}:\\s+(\\d+)`, 'm').exec(text)[1]),
  )
  return (kilobytes[0] + kilobytes[1]) / 1000
}

async function sampleOfNode() {
  return { command: await runOf(['-e', '0']), answer: await firstAnswer([app], await freePort(), {}) }
}

/** @param {string} broker the folder of that package */
async function sampleOf(broker) {
  const baton = join(broker, 'bin/baton.js')
  const sdk = join(broker, '../backend-sdk')
  const { exports: exported } = JSON.parse(readFileSync(join(sdk, 'package.json'), 'utf8'))
  const place = temporaryFolder()
  const admin = await freePort()
  const file = join(place, 'baton.json')
  writeFileSync(
    file,
    JSON.stringify({
      runtimeDir: join(place, 'run'),
      admin: { listen: `127.0.0.1:${admin}` },
      listeners: [{ name: 'web', listen: '127.0.0.1:0', protocol: 'http', service: 'web' }],
      services: {
        web: {
          command: [process.execPath, backend],
          env: { SDK: join(sdk, exported['.'].default) },
          instances: BACKENDS,
        },
      },
    }),
  )
  const version = await runOf([baton, '--version'])
  const help = await runOf([baton, '--help'])
  const usage = await runOf([baton, 'no-such-command'], { code: 2, stdio: 'ignore' })
  const begun = performance.now()
  const master = new SpeakingChild(baton, { args: ['start', '--config', file] })
  const masterHasEnded = atEnd(() => master.kill('SIGKILL'))
  const { pid } = await master.message('accepting connections')
  const start = performance.now() - begun
  const workerHasEnded = atEnd(() => kill(pid, 'SIGKILL'))
  const ready = async () => {
    const { services } = await (await fetch(`http://127.0.0.1:${admin}/api/v1/status`)).json()
    return services[0].backends.filter(({ state }) => state === 'ready').length === BACKENDS
  }
  while (!(await ready())) await elapsed(20)
  const memory = { master: privateMemory(master.pid), worker: privateMemory(pid) }
  const status = await runOf([baton, 'status', '--config', file])
  const reload = await runOf([baton, 'reload', '--config', file])
  master.kill('SIGTERM')
  await master.exited
  masterHasEnded()
  workerHasEnded()
  const port = await freePort()
  const answer = await firstAnswer(
    [baton, 'run', '--listen', `127.0.0.1:${port}`, '--', process.execPath, app],
    port,
    { PORT: String(port) },
  )
  return { version, help, usage, status, start, reload, answer, ...memory }
}

function report() {
  const bareCommands = valuesOf(bare, 'command')
  const row = ([what, key, target]) => {
    const cells = peers.map((peer) => figures(valuesOf(peer, key), 0))
    const ratios = valuesOf(now, key).map((value, round) => value / bareCommands[round])
    const { median } = summary(ratios)
    return [what, ...cells, figures(ratios, 2), `at most ${target}`, median <= target ? 'met' : 'not met']
  }
  const more = valuesOf(now, 'answer').map((answer, round) => answer - valuesOf(bare, 'answer')[round])
  const rows = [
    ['`node -e 0`', figures(bareCommands, 0)],
    ...[
      ['`baton --version`', 'version', 1.3],
      ['`baton --help`', 'help', 1.3],
      ['a command that does not exist', 'usage', 1.3],
      ['`baton status`', 'status', 2],
      ['`baton start`, to the first accept', 'start', 4],
      ['`baton reload`, 2 backends, to its answer', 'reload', 5],
    ].map(row),
    [
      '`baton run`, to the first answer of an app',
      ...peers.map((peer) => figures(valuesOf(peer, 'answer'), 0)),
      `${figures(more, 0)} ms more`,
      'at most 350 ms more',
      summary(more).median <= 350 ? 'met' : 'not met',
    ],
    ...[
      ['private memory of the master, MB', 'master', 14],
      ['private memory of the worker, MB', 'worker', 24],
    ].map(([what, key, target]) => {
      const { median } = summary(valuesOf(now, key))
      const cells = peers.map((peer) => figures(valuesOf(peer, key), 1))
      return [what, ...cells, '', `at most ${target}`, median <= target ? 'met' : 'not met']
    }),
  ]
  const head = ['milliseconds', ...peers.map(({ name }) => name), 'Baton to `node -e 0`', 'target', 'result']
  const text = `Node ${process.versions.node}, ${rounds} rounds in turns; median (least to most).\n\n${markdownTable(head, rows)}`
  console.log(text)
  if (isWritten) writePart(PERFORMANCE, `starts on Node ${NODE_LINE}`, text)
}

/** Samples of a peer; none if it has no such figure. */
function valuesOf({ name }, key) {
  return samples
    .get(name)
    .map((sample) => sample[key])
    .filter((value) => value !== undefined)
}

function figures(numbers, digits) {
  if (numbers.length === 0) return ''
  const { median, least, most } = summary(numbers)
  return `${median.toFixed(digits)} (${least.toFixed(digits)} to ${most.toFixed(digits)})`
}
