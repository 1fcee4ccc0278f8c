import { spawnSync } from 'node:child_process'
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { startBackend } from './support/backend.ts'
import { startBroker } from './support/broker.ts'
import { Client } from './support/client.ts'
import { eventually } from './support/eventually.ts'
import { LIMIT } from './support/limits.ts'
import { reload } from './support/operator.ts'
import { Program, root, temporaryFolder } from './support/process.ts'
import { cannotTrace, RefusedCalls } from './support/refused-calls.ts'
import { PATIENT } from './support/service.ts'
import { visit } from './support/visit.ts'

// Unexpected errors of system calls, also those that last: no process of the broker ends, hangs or is left alone because of one, and an app does not
// either. Each story was one that did.

const REQUEST = 'GET / HTTP/1.1\r\nHost: test\r\n\r\n'
const options = { timeout: LIMIT, skip: cannotTrace }

// The kernel had no memory for one message of the master. The worker took that for the master's end and went on alone. The master took the end of
// their channel for the worker's, and waited for its exit. `baton reload` said that the master had been killed, and no worker was ever started again.
void t.test('a worker that cannot receive for a moment keeps its master', options, async (t) => {
  const broker = await startBroker(t)
  const calls = await RefusedCalls.begin(t, broker.pid, 'recvmsg', 'ENOMEM', 1)
  await calls.refused()
  await calls.end()
  t.equal((await broker.status()).broker.master, broker.program.pid)
  t.match(await reload(t, broker), { success: true })
})

void t.test('a worker that has lost its channel is replaced', options, async (t) => {
  const broker = await startBroker(t)
  await startBackend(t, broker)
  const calls = await RefusedCalls.begin(t, broker.pid, 'recvmsg', 'EBADF', 1)
  await calls.refused()
  await calls.end()
  await broker.program.message('worker has lost its channel; ending it')
  const { pid } = (await broker.backends(1)).broker
  t.not(pid, broker.pid)
  t.equal((await broker.status()).broker.master, broker.program.pid)
  await visit(t, broker)
})

// A security module may refuse what Node asks about a descriptor. The error was none of a connect, and ended the worker with each relay.
void t.test('a relay whose socket cannot be opened waits, and the worker goes on', options, async (t) => {
  const broker = await startBroker(t, { config: { services: { web: { ...PATIENT, handoff: 'off' } } } })
  await startBackend(t, broker)
  await broker.backends(1)
  const calls = await RefusedCalls.begin(t, broker.pid, 'fstat', 'EACCES')
  const client = await Client.open(t, { host: '127.0.0.1', port: broker.port() })
  client.send(REQUEST)
  await calls.refused()
  await broker.until(({ services }) => services[0]?.held === 1, 'it is held')
  await calls.end()
  t.equal((await client.answer()).status, 200)
  t.equal((await broker.status()).broker.pid, broker.pid)
})

// `poll` was refused while the SDK looked for idle connections, in a timer: the app ended.
void t.test('an app goes on if its idle connections cannot be looked at', options, async (t) => {
  const broker = await startBroker(t, { config: { services: { web: { ...PATIENT, parkAfter: '100ms' } } } })
  const backend = await startBackend(t, broker)
  const client = await Client.open(t, { host: '127.0.0.1', port: broker.port() })
  const calls = await RefusedCalls.begin(t, backend.pid, 'poll', 'ENOMEM')
  client.send(REQUEST)
  t.equal((await client.answer()).status, 200)
  await calls.refused(2)
  await calls.end()
  await broker.until(({ services }) => services[0]?.parked === 1, 'it is handed back afterwards')
  client.send(REQUEST)
  t.equal((await client.answer()).status, 200)
})

// The app's output went to a file, and the disk was full: an error of `process.stderr` that nothing listened for ended the app with the first line
// of the SDK. (`console` ignores such errors.)
void t.test('a line that cannot be written does not end the app', { timeout: LIMIT }, async (t) => {
  const folder = temporaryFolder(t)
  const [socket, output] = [join(folder, 'control.sock'), join(folder, 'output')]
  const app = join(root, 'test/programs/without-room.mjs')
  // RLIMIT_FSIZE: EFBIG for each byte. Node ignores SIGXFSZ.
  const program = new Program(
    t,
    'sh',
    ['-c', `exec prlimit --fsize=0: "$@" 2>${output}`, 'sh', process.execPath, app],
    { env: { BATON_SOCKET: socket, BATON_SERVICE: 'web' } },
  )
  t.match(await program.message('lost'), { code: 'EFBIG' })
  t.equal(readFileSync(output, 'utf8'), '')
  t.equal(spawnSync('prlimit', ['--pid', String(program.pid), '--fsize=unlimited']).status, 0)
  // Another reason is logged again.
  writeFileSync(socket, '')
  await eventually(() => readFileSync(output, 'utf8').startsWith('baton: '), 'lines are written again')
  t.equal(program.running, true)
})
