import { once } from 'node:events'
import { readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { connect, type Socket } from 'node:net'
import { join } from 'node:path'
import { setImmediate } from 'node:timers/promises'
import { Worker } from 'node:worker_threads'
import t, { type Test } from 'tap'
import {
  executeInPlace,
  isCloseOnExec,
  Poller,
  send,
  setCloseOnExec,
  socketpair,
  type ExecuteOptions,
  watchCaughtSignals,
} from '../src/index.ts'
import {
  closing,
  codeOf,
  ended,
  nativeError,
  openDescriptors,
  readable,
  startFixture,
  temporaryFolder,
} from './support.ts'
import { LIMIT } from '../../../test/support/limits.ts'
import { signal } from '../../../test/support/signal.ts'

/** Each is compared with the one before, so a few are enough; `test/long/repetitions.test.ts` runs 200. */
const EXECS = Number(process.env['EXECS'] ?? 10)

/** Everything received from `socket` until it ends. */
async function spoken(socket: Socket): Promise<string> {
  let text = ''
  for await (const chunk of socket) text += String(chunk)
  return text
}

/** A session that requests `rounds` re-executions; resolves with its answer, and with that of a client that waits meanwhile. */
async function session(t: Test, rounds: number): Promise<{ pid: number; answer: unknown; waiting: string }> {
  const path = join(temporaryFolder(t), 'session.sock')
  const child = startFixture('session.mjs', [path])
  t.teardown(() => child.kill('SIGKILL'))
  const end = ended(child, LIMIT)
  await once(child.stdout ?? child, 'data')
  const asking = connect(path)
  await once(asking, 'connect')
  asking.write(String(rounds))
  const answer = spoken(asking)
  // It is accepted only after the last round: the first connection is the session.
  const waiting = connect(path)
  const [told, served, { code, signal, stderr }] = await Promise.all([answer, spoken(waiting), end])
  t.same({ code, signal, stderr }, { code: 0, signal: null, stderr: '' })
  return { pid: child.pid ?? 0, answer: JSON.parse(told), waiting: served }
}

/** FD_CLOEXEC of every open descriptor. */
function closeOnExecFlags(): Record<string, boolean | string> {
  const flags = readdirSync('/proc/self/fd').map((fd): [string, boolean | string] => {
    let on: boolean | string = 'closed'
    codeOf(() => (on = isCloseOnExec(Number(fd))))
    return [fd, on]
  })
  return Object.fromEntries(flags)
}

void t.test(
  'a session waits in a socketpair during exec, and is received and answered afterwards',
  { timeout: LIMIT },
  async (t) => {
    const { pid, answer, waiting } = await session(t, 1)
    t.same(answer, { pid, listening: true }, 'same pid, and the listening socket is one still')
    t.equal(waiting, 'served', 'by the new program, from the queue of the old listening socket')
  },
)

void t.test(
  `the pair survives ${EXECS} execs, found again through the environment, and no descriptor is left over`,
  { timeout: LIMIT },
  async (t) => {
    const { pid, answer, waiting } = await session(t, EXECS)
    t.same(answer, { pid, listening: true })
    t.equal(waiting, 'served')
  },
)

void t.test(
  'the new program has 0, 1, 2 and the kept descriptors, and no others',
  { timeout: LIMIT },
  async (t) => {
    const { code, stdout, stderr } = await ended(startFixture('inherited.mjs', []))
    t.same({ code, stderr }, { code: 0, stderr: '' })
    const [kept, ...listed] = stdout.trim().split('\n')
    const numbers = listed.filter((name) => /^\d+$/.test(name)).map(Number)
    // The process that started the tests may have left some open; they stay open through every program.
    const passing = Object.entries(closeOnExecFlags()).filter(([fd, on]) => on === false && Number(fd) > 2)
    const expected = new Set([0, 1, 2, Number(kept), ...passing.map(([fd]) => Number(fd))])
    let free = 0
    while (expected.has(free)) free++
    // `ls` reads the folder through the lowest free number.
    t.same(
      numbers.toSorted((a, b) => a - b),
      [...expected, free].toSorted((a, b) => a - b),
    )
  },
)

void t.test('arguments and variables arrive byte for byte', { timeout: LIMIT }, async (t) => {
  const child = startFixture('arguments.mjs', [])
  const { stdout, stderr } = await ended(child)
  t.equal(stderr, '')
  t.same(JSON.parse(stdout), {
    pid: child.pid,
    first: process.execPath,
    args: ['', 'zwei Wörter', '日本語 🎏', 'a\nb', '"\'\\$x', ''],
    env: { EMPTY: '', NAME: 'Zoë 🎏', EQUALS: 'a=b' },
  })
})

void t.test('an execve that fails leaves everything as it was', { timeout: LIMIT }, async (t) => {
  const [a, b] = socketpair('stream')
  const [c, d] = socketpair('stream')
  closing(t, a, b, c, d)
  setCloseOnExec(c.fd, false)
  const folder = temporaryFolder(t)
  const text = join(folder, 'text')
  writeFileSync(text, 'no program')
  const poller = new Poller()
  t.teardown(() => poller.close())
  const arrived = readable(poller, b.fd)
  const before = closeOnExecFlags()
  const count = openDescriptors()
  const attempt = (options: Partial<ExecuteOptions>) => (): never =>
    executeInPlace({ path: '/bin/false', args: [], env: {}, keep: [a.fd, c.fd, a.fd], ...options })
  const missing = join(folder, 'missing')
  t.match(nativeError(attempt({ path: missing })), { code: 'ENOENT', syscall: 'execve', path: missing })
  t.match(nativeError(attempt({ path: text })), { code: 'EACCES', syscall: 'execve', path: text })
  t.equal(codeOf(attempt({ args: ['x'.repeat(256 * 1024)] })), 'E2BIG')
  t.match(nativeError(attempt({ keep: [a.fd, 99_999] })), { code: 'EBADF', syscall: 'fcntl', fd: 99_999 })
  for (const options of [{ path: '/bin/\0' }, { args: ['a\0b'] }, { env: { NAME: '\0' } }])
    t.equal(codeOf(attempt(options)), 'BATON_ERR_INVALID_ARGUMENT')
  t.same(closeOnExecFlags(), before)
  t.equal(before[String(a.fd)], true)
  t.equal(before[String(c.fd)], false)
  t.equal(openDescriptors(), count)
  send(a.fd, Buffer.from('x'))
  await arrived
})

void t.test('a Worker cannot replace the program', { timeout: LIMIT }, async (t) => {
  const index = new URL('../dist/index.js', import.meta.url).href
  const code = `import(${JSON.stringify(index)}).then(({ executeInPlace }) =>
    executeInPlace({ path: '/bin/false', args: [], env: {}, keep: [] }),
  ).catch(({ code }) => require('node:worker_threads').parentPort.postMessage(code))`
  const worker = new Worker(code, { eval: true, execArgv: [], env: {} })
  t.same(await once(worker, 'message'), ['BATON_ERR_INVALID_ARGUMENT'])
  await worker.terminate()
})

// Node clears the signal mask and resets all dispositions when it starts: a SIGHUP in that time ended the process, and a
// SIGUSR1 opened the inspector.
void t.test('signals wait while the program is replaced', { timeout: LIMIT }, async (t) => {
  const all = ['SIGALRM', 'SIGHUP', 'SIGINT', 'SIGPIPE', 'SIGQUIT', 'SIGTERM', 'SIGUSR1', 'SIGUSR2']
  const report = { heard: all, mask: true, preload: null, rest: false, url: null }
  const run = async (args: string[]) => {
    const child = startFixture('kept-signals.mjs', args)
    let said = ''
    child.stdout?.setEncoding('utf8').on('data', (chunk: string) => (said += chunk))
    const { code, signal, stderr } = await ended(child, LIMIT)
    t.same({ code, signal, stderr }, { code: 0, signal: null, stderr: '' })
    return said
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line) as unknown)
  }
  t.same(await run(['3']), [report, report, report])
  t.same(await run(['1', 'libc.so.6']), [{ ...report, preload: 'libc.so.6' }], 'the user’s own preload stays')
})

// ld.so ignores LD_PRELOAD for a Node with capabilities (setcap(8), to listen on port 80): each reload leaked a descriptor into all children.
void t.test('the library to preload is closed if ld.so did not load it', { timeout: LIMIT }, async (t) => {
  const child = startFixture('unloaded-keeper.mjs', [])
  const { stdout, stderr } = await ended(child)
  t.equal(stderr, '')
  t.same(JSON.parse(stdout), { left: [], variables: [] })
})

void t.test('a program that cannot be executed leaves the signal mask as it was', (t) => {
  const mask = () => /^SigBlk.*$/m.exec(readFileSync('/proc/thread-self/status', 'utf8'))?.[0]
  const before = mask()
  const descriptors = openDescriptors()
  t.throws(() => executeInPlace({ path: '/nowhere', args: [], env: {}, keep: [], keepSignals: true }), {
    code: 'ENOENT',
  })
  t.equal(mask(), before)
  t.same(openDescriptors(), descriptors)
  t.end()
})

void t.test('a signal that was caught, and has not reached its listener, can stop it', async (t) => {
  const isCaught = watchCaughtSignals()
  const turn = async () => {
    await setImmediate()
    await setImmediate()
  }
  await turn()
  const execute = () =>
    executeInPlace({ path: process.execPath, args: [], env: {}, keep: [], isInterrupted: isCaught })
  t.equal(isCaught?.(), false)
  let heard = false
  process.once('SIGUSR2', () => (heard = true))
  signal(process.pid, 'SIGUSR2')
  t.equal(isCaught?.(), true)
  t.throws(execute, { code: 'EINTR' })
  t.notOk(heard)
  await turn()
  t.ok(heard)
  t.equal(isCaught?.(), false)
})
