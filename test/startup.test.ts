import { readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { once } from 'node:events'
import { type AddressInfo, createServer } from 'node:net'
import t, { type Test } from 'tap'
import { batonCommand, startBroker } from './support/broker.ts'
import { eventually } from './support/eventually.ts'
import { LIMIT } from './support/limits.ts'
import { configure, onlyWorker, reload } from './support/operator.ts'
import { Program, temporaryFolder } from './support/process.ts'

// Most of a start goes into finding, reading and linking code. So each program has an upper bound on the files that it loads, and
// on their size: a clock would say nothing on a busy machine. V8 itself reports what was loaded (NODE_V8_COVERAGE).

interface Loaded {
  readonly files: number
  readonly kB: number
  readonly names: readonly string[]
}

/** The code that was loaded by each process that wrote its coverage into `folder`. */
function loadedBy(folder: string): Loaded[] {
  return readdirSync(folder).map((file) => {
    const { result } = JSON.parse(readFileSync(join(folder, file), 'utf8')) as { result: { url: string }[] }
    const names = result.map(({ url }) => url).filter((url) => url.startsWith('file:'))
    return measured(names)
  })
}

function measured(names: readonly string[]): Loaded {
  const bytes = names.reduce((sum, name) => sum + statSync(fileURLToPath(name)).size, 0)
  return { files: names.length, kB: bytes / 1024, names }
}

function textOf(url: string): string {
  return readFileSync(fileURLToPath(url), 'utf8')
}

function within(
  t: Test,
  what: string,
  loaded: Loaded | undefined,
  most: { files: number; kB: number },
): void {
  const { files = 0, kB = 0, names = [] } = loaded ?? {}
  t.ok(files > 0, `${what} has loaded something`)
  const list = names.map((name) => name.split('/').slice(-2).join('/')).join(' ')
  t.ok(files <= most.files, `${what}: ${files} files, at most ${most.files}: ${list}`)
  t.ok(kB <= most.kB, `${what}: ${Math.round(kB)} kB, at most ${most.kB}`)
}

void t.test('a command loads what it needs', { timeout: LIMIT }, async (t) => {
  const bounds = {
    '--version': { files: 5, kB: 40 },
    '--help': { files: 5, kB: 40 },
    '--unknown': { files: 5, kB: 40 },
    unknown: { files: 5, kB: 40 },
    // No schema, and no parser of JSON with comments: the file has none.
    status: { files: 10, kB: 170 },
    stop: { files: 10, kB: 170 },
    ls: { files: 11, kB: 175 },
  }
  const config = join(temporaryFolder(t), 'baton.json')
  writeFileSync(
    config,
    JSON.stringify({ runtimeDir: temporaryFolder(t), admin: { listen: 'unix:/nowhere' } }),
  )
  for (const [argument, most] of Object.entries(bounds)) {
    const folder = join(temporaryFolder(t), 'loaded')
    const options = ['status', 'stop'].includes(argument) ? ['--config', config] : []
    const command = new Program(t, process.execPath, [batonCommand, argument, ...options], {
      env: { NODE_V8_COVERAGE: folder },
    })
    await command.exited
    within(t, `baton ${argument}`, loadedBy(folder)[0], most)
  }
})

void t.test('master and worker load what they need', { timeout: LIMIT }, async (t) => {
  const folder = join(temporaryFolder(t), 'loaded')
  const { program } = await startBroker(t, { env: { NODE_V8_COVERAGE: folder } })
  program.kill('SIGTERM')
  await program.exited
  const all = loadedBy(folder)
  const isWorker = ({ names }: Loaded) => names.some((name) => name.endsWith('/bundle/worker.js'))
  t.equal(all.length, 2)
  within(
    t,
    'the master',
    all.find((each) => !isWorker(each)),
    { files: 40, kB: 1400 },
  )
  const worker = all.find(isWorker)
  within(t, 'the worker', worker, { files: 26, kB: 2000 })
  // The admin server, which also checks requests with zod, is more than half of it. It is loaded once the worker accepts.
  const ofAdmin = (name: string) =>
    /\/chunks\/server-\w+\.js$/.test(name) || textOf(name).includes('/node_modules/zod/')
  const early = worker?.names.filter((name) => !ofAdmin(name)) ?? []
  t.equal(early.length, (worker?.files ?? 0) - 2, 'they are files of their own')
  t.same(
    all.flatMap(({ names }) => names).filter((name) => /from "node:http"/.test(textOf(name))),
    [],
    'an import of node:http would load undici',
  )
  within(t, 'the worker before it accepts', measured(early), { files: 24, kB: 1000 })
})

void t.test('a start that fails leaves no worker behind', { timeout: LIMIT }, async (t) => {
  const program = new Program(
    t,
    process.execPath,
    [batonCommand, 'start', '--config', join(temporaryFolder(t), 'baton.json')],
    { group: true },
  )
  t.same(await program.exited, { code: 1, signal: null })
  // A worker that was killed may still be on its way out.
  await eventually(
    () => membersOf(program.pid).length === 0,
    () => `process ${membersOf(program.pid).join(', ')} is left`,
  )
})

void t.test('a reload that fails leaves no worker behind', { timeout: LIMIT }, async (t) => {
  const taken = createServer().listen(0, '127.0.0.1')
  await once(taken, 'listening')
  t.teardown(() => taken.close())
  const { port } = taken.address() as AddressInfo
  const broker = await startBroker(t)
  const worker = await onlyWorker(t, broker)
  const web = { name: 'web', listen: '127.0.0.1:0', protocol: 'http', service: 'web' }
  configure(broker, { listeners: [web, { ...web, name: 'more', listen: `127.0.0.1:${port}` }] })
  // Refused by the next program: a worker was started for it before.
  const { success, log } = await reload(t, broker)
  t.notOk(success)
  t.match(log.join('\n'), /the address is in use/)
  await eventually(() => membersOf(broker.program.pid).length === 2, 'master and worker are left')
  configure(broker, { listeners: [web] })
  t.match(await reload(t, broker), { success: true })
  t.not(await onlyWorker(t, broker), worker)
})

/** Processes of a group that have not exited. */
function membersOf(group: number): string[] {
  return readdirSync('/proc').filter((name) => {
    if (!/^\d+$/.test(name)) return false
    try {
      const [state, , processGroup] =
        readFileSync(`/proc/${name}/stat`, 'utf8').split(') ')[1]?.split(' ') ?? []
      return Number(processGroup) === group && state !== 'Z'
    } catch {
      return false
    }
  })
}
