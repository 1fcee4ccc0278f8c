import { execFileSync, spawnSync } from 'node:child_process'
import {
  appendFileSync,
  chmodSync,
  existsSync,
  mkdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { startBackend } from '../support/backend.ts'
import { batonCommand } from '../support/broker.ts'
import { eventually } from '../support/eventually.ts'
import { LIMIT } from '../support/limits.ts'
import { masterStatus, onlyWorker, reload } from '../support/operator.ts'
import { PacedClients } from '../support/paced-clients.ts'
import { Program, temporaryFolder } from '../support/process.ts'
import { RedirectedRun, SlowReader, startRedirected } from '../support/redirected.ts'
import { exists, signal } from '../support/signal.ts'
import { servedBy } from '../support/visit.ts'
import { NOBODY, onlyAsRoot as asNobody } from '../support/other-user.ts'

// No state of standard output or standard error may stop or block a broker, a command or an app.

const MIB = 1024 * 1024
const asRoot = { timeout: LIMIT, skip: process.getuid?.() !== 0 && 'needs root' }

/** `baton ARGS...` with its output redirected: the exit code, and the lines that still got through. */
async function redirected(t: Test, redirection: string, args: readonly string[]) {
  const command = ['-c', `exec "$@" ${redirection}`, 'sh', process.execPath, batonCommand, ...args]
  const program = new Program(t, 'sh', command)
  const { code } = await program.exited
  return { code, lines: program.lines }
}

async function stop({ program }: { program: Program }): Promise<void> {
  signal(program.pid, 'SIGTERM')
  await program.exited
}

/** A folder on a separate disk, unmounted with the test. */
function mount(t: Test, ...args: string[]): string {
  const path = temporaryFolder(t)
  const { status, stderr } = spawnSync('mount', [...args, path], { encoding: 'utf8' })
  if (status !== 0) throw new Error(`mount: ${stderr}`)
  t.teardown(() => spawnSync('umount', ['-l', path]))
  return path
}

/** Of the app's numbered lines in the log: how many are missing, and those that are incomplete. */
function accountOf(log: string, size: number): { missing: number; cut: string[] } {
  const lines = log.split('\n').slice(0, -1)
  const numbers: number[] = []
  const cut: string[] = []
  for (const line of lines) {
    const [, number, filling] = /^app\.1 \| line \d+ (\d+) (x*) end$/.exec(line) ?? []
    if (number !== undefined && filling?.length === size) numbers.push(Number(number))
    else if (line.includes('xxx')) cut.push(`${line.slice(0, 60)}...${line.slice(-60)}`)
  }
  return { missing: (numbers.at(-1) ?? 0) + 1 - numbers.length, cut }
}

const SIZE = 900
const CHATTY = { SIZE: String(SIZE), EVERY: '10' }

/** 300 new connections a second, while the log cannot be written and after it can be written again. */
async function underLoad(
  t: Test,
  run: RedirectedRun,
  seconds: number,
  { recover, log }: { recover: () => void; log: () => string },
): Promise<void> {
  const app = await run.answers()
  const clients = new PacedClients(t, run.port, 300)
  await eventually(async () => (await run.dropped()) > 0, 'lines are dropped', LIMIT)
  const enough = clients.answers + 300 * seconds
  await eventually(
    () => clients.answers >= enough,
    () => `${enough} answers: ${clients.answers}, ${clients.failures.join(', ')}`,
    LIMIT,
  )
  recover()
  await eventually(
    () => /warning: log lines were dropped: .*\napp\.1/.test(log()),
    () => `the log continues:\n${log().slice(-1000)}`,
  )
  await clients.stop()
  t.same(clients.failures, [], `${clients.answers} clients`)
  t.equal(await run.answers(), app, 'the app lives')
  const dropped = await run.dropped()
  await eventually(
    async () => accountOf(log(), SIZE).missing === dropped,
    () => `${dropped} were dropped: ${JSON.stringify(accountOf(log(), SIZE))}`,
  )
  t.same(accountOf(log(), SIZE).cut, [])
  t.notMatch(log(), /worker died|backend process ended/)
  const told = [...log().matchAll(/log lines were dropped: .* lines=(\d+)$/gm)].map(([, lines]) =>
    Number(lines),
  )
  t.equal(
    told.reduce((sum, lines) => sum + lines, 0),
    dropped,
    'the reported numbers add up',
  )
  await stop(run)
}

void t.test('the disk of the log is full for 10 s under load', asRoot, async (t) => {
  const disk = mount(t, '-t', 'tmpfs', '-o', 'size=128m', 'tmpfs')
  const ballast = join(disk, 'ballast')
  writeFileSync(ballast, Buffer.alloc(127 * MIB))
  const file = join(disk, 'log')
  const run = await RedirectedRun.start(t, `>> ${file} 2>&1`, CHATTY)
  await underLoad(t, run, 10, { recover: () => rmSync(ballast), log: () => readFileSync(file, 'utf8') })
})

void t.test('the reader of the log stops for 30 s under load', { timeout: LIMIT }, async (t) => {
  const reader = new SlowReader(t)
  const run = await RedirectedRun.start(t, `> ${reader.path} 2>&1`, CHATTY)
  let text = ''
  let reading = false
  const log = () => {
    if (reading) text += reader.read()
    return text
  }
  await underLoad(t, run, 30, { recover: () => (reading = true), log })
})

// The output of a chatty app filled the answer to a reload beyond a session's limit, and the session was cut.
void t.test('a reload of a chatty app whose log is not read', { timeout: LIMIT }, async (t) => {
  const reader = new SlowReader(t)
  const run = await RedirectedRun.start(t, `> ${reader.path} 2>&1`, { SIZE: '16000', EVERY: '40' })
  await eventually(async () => (await run.dropped()) > 0, 'lines are dropped')
  for (const round of [1, 2]) {
    const dropped = await run.dropped()
    t.same((await redirected(t, '', ['reload', '--config', run.configFile])).code, 0, `reload ${round}`)
    t.ok((await run.dropped()) >= dropped, 'the counter continues')
  }
  const text = await reader.reads(/ reloads=2\n[^]*log lines were dropped/)
  t.match(text, /program replaced/, 'the broker’s own lines are not displaced by the app’s output')
  await stop(run)
})

// The master did nothing but read the apps' output.
void t.test('apps that print at full speed into a log that is not read', { timeout: LIMIT }, async (t) => {
  const { path } = new SlowReader(t)
  const services = { web: {}, noisy: { command: ['yes'], instances: 2 } }
  const broker = await startRedirected(t, `> ${path} 2>&1`, { config: { services, drainDeadline: '1s' } })
  await eventually(async () => (await masterStatus(t, broker)).managed.length === 2, 'both apps run')
  signal(broker.pid, 'SIGKILL')
  const isReplaced = async () => (await onlyWorker(t, broker)) !== broker.pid
  await eventually(isReplaced, 'the worker that was killed is replaced')
  signal(broker.program.pid, 'SIGTERM')
  t.same(await broker.program.exited, { code: 0, signal: null })
})

void t.test('a burst is written, not dropped, if the log is read', { timeout: LIMIT }, async (t) => {
  const file = join(temporaryFolder(t), 'log')
  // 20 MB in one go: three times the size of all buffers.
  const run = await RedirectedRun.start(t, `> >(cat > ${file})`, {
    SIZE: '100',
    EVERY: '1000000',
    BURST: '150000',
  })
  await eventually(
    () => /line \d+ 149999 /.test(readFileSync(file, 'latin1').slice(-10_000)),
    'the last line',
    LIMIT,
  )
  t.same(accountOf(readFileSync(file, 'latin1'), 100), { missing: 0, cut: [] })
  await stop(run)
})

void t.test('SIGUSR1 opens a log file again, also after a reload', { timeout: LIMIT }, async (t) => {
  const folder = temporaryFolder(t)
  const file = join(folder, 'log')
  const broker = await startRedirected(t, `>> ${file} 2>&1`)
  const contents = (name: string) => readFileSync(name, 'utf8')
  const logsTo = (name: string, msg: string) =>
    eventually(
      () => fileExists(name) && contents(name).includes(`"msg":"${msg}"`),
      () => `${msg} in ${name}:\n${contents(name)}`,
    )
  /** Its workers too, which learn of it from the master that has logged it: what they write until then is in the old file. */
  const reopened = async () => {
    await logsTo(file, 'log reopened')
    const { ino } = statSync(file)
    await eventually(async () => {
      const { workers } = await masterStatus(t, broker)
      return workers.every(({ pid }) => statSync(`/proc/${pid}/fd/1`, { throwIfNoEntry: false })?.ino === ino)
    }, 'workers write to it')
  }
  chmodSync(file, 0o640)
  renameSync(file, `${file}.1`)
  signal(broker.program.pid, 'SIGUSR1')
  await reopened()
  t.equal(statSync(file).mode & 0o777, 0o640)
  const old = contents(`${file}.1`)
  const backend = await startBackend(t, broker)
  await logsTo(file, 'backend registered')
  t.equal(contents(`${file}.1`), old, 'the worker does not write to the old one either')

  t.ok((await reload(t, broker)).success)
  await logsTo(file, 'reloaded')
  rmSync(file)
  signal(broker.program.pid, 'SIGUSR1')
  await reopened()
  backend.kill('SIGKILL')
  await logsTo(file, 'backend deregistered')

  // This worker is started later.
  renameSync(file, `${file}.2`)
  signal(broker.program.pid, 'SIGUSR1')
  await reopened()
  signal(await onlyWorker(t, broker), 'SIGKILL')
  await logsTo(file, 'accepting connections')

  // A disk that fills up in the middle of a line: after a reload, the new program still has the beginning of that line.
  const limit = async (size: number | string) => {
    for (const pid of [broker.program.pid, await onlyWorker(t, broker)])
      execFileSync('prlimit', ['--pid', String(pid), `--fsize=${size}:`])
  }
  // The limit applies to every file: the other files that a reload writes are smaller.
  appendFileSync(file, '{}\n'.repeat(MIB / 3))
  const full = statSync(file).size + 10
  await limit(full)
  signal(broker.program.pid, 'SIGUSR2')
  await eventually(() => statSync(file).size === full, 'it is full')
  t.notOk(contents(file).endsWith('\n'))
  t.ok((await reload(t, broker)).success)
  renameSync(file, `${file}.3`)
  signal(broker.program.pid, 'SIGUSR1')
  await reopened()
  await limit('unlimited')
  await logsTo(file, 'reloaded')
  const lines = contents(file).split('\n').slice(0, -1)
  t.match(JSON.parse(lines[0] ?? ''), { msg: /^status: / }, 'the line is written again')
  for (const line of lines) t.doesNotThrow(() => JSON.parse(line) as unknown)

  // If the file cannot be opened, nothing changes.
  rmSync(file)
  mkdirSync(file)
  signal(broker.program.pid, 'SIGUSR1')
  await eventually(async () => (await reload(t, broker)).success, 'it continues')
  rmSync(file, { recursive: true })
  signal(broker.program.pid, 'SIGUSR1')
  await reopened()
  t.notMatch(contents(file) + old, /Debugger listening/)
  await stop(broker)
})

void t.test('commands whose output cannot be written', { timeout: LIMIT }, async (t) => {
  const broker = await startRedirected(t, '>&- 2>&-')
  const config = ['--config', broker.configFile]
  const refused = 'baton: standard output cannot be written: ENOSPC: no space left on device, write'
  for (const command of ['status', 'top', 'check', 'trace']) {
    const args = command === 'trace' ? ['trace', '--slowest', '1', ...config] : [command, ...config]
    t.same(await redirected(t, '> /dev/full', args), { code: 1, lines: [refused] }, command)
  }
  for (const args of [['--help'], ['--version'], ['run', '--help'], ['completion', 'bash']])
    t.same(await redirected(t, '> /dev/full', args), { code: 1, lines: [refused] }, args.join(' '))
  t.same(await redirected(t, '> /dev/full 2> /dev/full', ['status', ...config]), { code: 1, lines: [] })
  t.same(await redirected(t, '2> /dev/full', ['status', '--config', '/nowhere']), { code: 1, lines: [] })
  t.same((await redirected(t, '| true', ['status', ...config])).lines, [])
  await stop(broker)
})

void t.test(
  'standard output is closed, or read-only, or a pipe without a reader',
  { timeout: LIMIT },
  async (t) => {
    for (const redirection of ['>&- 2>&-', '1< /dev/null', '> >(true)']) {
      const broker = await startRedirected(t, redirection)
      const backend = await startBackend(t, broker)
      const { pid: worker } = broker
      signal(worker, 'SIGKILL')
      await eventually(async () => (await onlyWorker(t, broker)) !== worker, 'another worker')
      t.ok((await reload(t, broker)).success, redirection)
      t.equal(await servedBy(t, broker), backend.pid)
      await stop(broker)
    }
  },
)

// As under systemd (journald) and Docker.
void t.test('standard output is a socket whose reader has stopped', { timeout: LIMIT }, async (t) => {
  const run = await RedirectedRun.start(t, '', { SIZE: '3900', EVERY: '20' }, [], { pauseOutput: true })
  const app = await run.answers()
  await eventually(async () => (await run.dropped()) > 0, 'lines are dropped')
  signal(app, 'SIGKILL')
  t.ok(await run.answers(app))
  t.same((await redirected(t, '', ['reload', '--config', run.configFile])).code, 0)
  signal(run.program.pid, 'SIGTERM')
  await eventually(() => !exists(run.program.pid), 'SIGTERM is obeyed')
})

const noScript = spawnSync('script', ['--version']).error !== undefined && 'script is not installed'
void t.test('Ctrl-S in the terminal of baton run', { timeout: LIMIT, skip: noScript }, async (t) => {
  const { run, terminal } = await RedirectedRun.inTerminal(t, { SIZE: '900', EVERY: '10' })
  await terminal.shows(/line \d+ 20 /)
  terminal.type('\u0013')
  const app = await run.answers()
  await eventually(async () => (await run.dropped()) > 0, 'lines are dropped')
  signal(app, 'SIGKILL')
  t.ok(await run.answers(app))
  const seen = terminal.output.length
  terminal.type('\u0011')
  await terminal.shows(/log lines were dropped: the output was too slow/, seen)
  terminal.type('\u0013')
  const master = parentOf(await run.answers())
  signal(master, 'SIGTERM')
  await eventually(() => !exists(master), 'SIGTERM is obeyed')
})

// Node aborted at exit: it restores the terminal's settings, and the terminal was gone.
void t.test('a closed terminal', { timeout: LIMIT }, async (t) => {
  const { terminal, run, exitCode } = await RedirectedRun.inTerminal(t, { SIZE: '900', EVERY: '10' })
  const master = parentOf(await run.answers())
  await terminal.hangUp()
  // The shell in between absorbs the kernel's SIGHUP; an interactive one forwards it to its jobs.
  signal(master, 'SIGHUP')
  await eventually(() => existsSync(exitCode) && readFileSync(exitCode, 'utf8') !== '', 'it ends')
  t.equal(readFileSync(exitCode, 'utf8'), '0\n')
})

// It is another user's terminal or pipe: it cannot be reopened, and its flags must not be changed.
const onlyAsRoot = {
  timeout: LIMIT,
  ...asNobody,
}
void t.test('a pipe that only its owner may open', onlyAsRoot, async (t) => {
  const reader = new SlowReader(t)
  const user = ['setpriv', `--reuid=${NOBODY}`, `--regid=${NOBODY}`, '--clear-groups']
  const run = await RedirectedRun.start(t, `> ${reader.path} 2>&1`, { SIZE: '3900', EVERY: '20' }, user, {
    owner: NOBODY,
  })
  const app = await run.answers()
  await eventually(async () => (await run.dropped()) > 0, 'lines are dropped')
  signal(app, 'SIGKILL')
  t.ok(await run.answers(app))
  await reader.reads(/log lines were dropped: the output was too slow/)
  await eventually(async () => (await run.dropped()) > 0, 'lines are dropped')
  signal(run.program.pid, 'SIGTERM')
  t.same(await run.program.exited, { code: 0, signal: null })
})

// write(2) to a frozen file system blocks, whatever the flags of the descriptor are.
const canFreeze =
  process.getuid?.() === 0 &&
  ['losetup', 'fsfreeze', 'mkfs.ext4'].every((program) => spawnSync(program, ['-V']).error === undefined)
void t.test(
  'the file system of the log is frozen',
  { timeout: LIMIT, skip: !canFreeze && 'needs root, losetup, fsfreeze and mkfs.ext4' },
  async (t) => {
    const image = join(temporaryFolder(t), 'image')
    writeFileSync(image, Buffer.alloc(32 * MIB))
    spawnSync('mkfs.ext4', ['-q', '-F', image])
    const disk = mount(t, '-o', 'loop', image)
    const thaw = () => spawnSync('fsfreeze', ['-u', disk])
    t.teardown(thaw)
    const file = join(disk, 'log')
    const run = await RedirectedRun.start(t, `>> ${file} 2>&1`, { SIZE: '3900', EVERY: '20' })
    const app = await run.answers()
    t.equal(spawnSync('fsfreeze', ['-f', disk]).status, 0)
    await eventually(async () => (await run.dropped()) > 0, 'lines are dropped')
    signal(app, 'SIGKILL')
    const successor = await run.answers(app)
    t.ok(successor)
    const refused = await redirected(t, '', ['reload', '--config', run.configFile])
    t.match(refused, { code: 1, lines: [/the log cannot be written: its disk does not respond/] })
    t.equal(await run.answers(), successor)
    thaw()
    await eventually(() => /log lines were dropped/.test(readFileSync(file, 'latin1')), 'the log continues')
    t.same((await redirected(t, '', ['reload', '--config', run.configFile])).code, 0)
    t.equal(await run.answers(), successor)
    await stop(run)
  },
)

function fileExists(path: string): boolean {
  return statSync(path, { throwIfNoEntry: false })?.isFile() === true
}

function parentOf(pid: number): number {
  return Number(/^PPid:\s+(\d+)$/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1])
}
