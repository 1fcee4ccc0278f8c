import { readdirSync, readFileSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import t, { type Test } from 'tap'
import { batonCommand, startBroker } from './support/broker.ts'
import { LIMIT } from './support/limits.ts'
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
    const bytes = names.reduce((sum, name) => sum + statSync(fileURLToPath(name)).size, 0)
    return { files: names.length, kB: bytes / 1024, names }
  })
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
    '--version': { files: 12, kB: 20 },
    '--help': { files: 17, kB: 145 },
    '--unknown': { files: 17, kB: 145 },
    status: { files: 20, kB: 400 },
    ls: { files: 19, kB: 150 },
  }
  for (const [argument, most] of Object.entries(bounds)) {
    const folder = join(temporaryFolder(t), 'loaded')
    const command = new Program(t, process.execPath, [batonCommand, argument], {
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
    { files: 34, kB: 1270 },
  )
  within(t, 'the worker', all.find(isWorker), { files: 26, kB: 2720 })
})
