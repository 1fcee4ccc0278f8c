import { constants, readFileSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { type Broker, startBroker } from './support/broker.ts'
import { Client } from './support/client.ts'
import { behind, program } from './support/commands.ts'
import { eventually } from './support/eventually.ts'
import { holders, inSession } from './support/proc.ts'
import { root, temporaryFolder } from './support/process.ts'
import { LIMIT } from './support/limits.ts'
import { onlyWorker, reload } from './support/operator.ts'
import { PATIENT } from './support/service.ts'
import { exists, signal } from './support/signal.ts'

async function startWithBackends(t: Test, instances: number): Promise<{ broker: Broker; pids: number[] }> {
  const command = [process.execPath, join(root, 'test/programs/http-backend.mjs')]
  const broker = await startBroker(t, { config: { services: { web: { ...PATIENT, command, instances } } } })
  const { services } = await broker.backends(instances)
  return { broker, pids: services[0]?.backends.map(({ pid }) => pid) ?? [] }
}

async function haveEnded(pids: readonly number[]): Promise<void> {
  await eventually(
    () => !pids.some(exists),
    () => `${pids.filter(exists).join(', ')} still there`,
  )
}

// A killed master leaves its managed backends behind: no process would stop or replace them, and the next master starts
// others. The master had read their output, so the SDK's own line about the lost broker once ended them by EPIPE,
// together with all of their connections.
void t.test(
  'managed backends whose master is killed finish what they have, and end',
  { timeout: LIMIT },
  async (t) => {
    const { broker, pids } = await startWithBackends(t, 2)
    const client = await Client.open(t, { host: '127.0.0.1', port: broker.port() })
    // The response is sent on the last byte of the request.
    client.send('POST /whole HTTP/1.1\r\nHost: test\r\nContent-Length: 1\r\n\r\n')
    await broker.until(
      (status) => status.services[0]?.outcomes.handed_off === 1,
      'the request is with a backend',
    )

    await broker.die()
    await eventually(() => pids.filter(exists).length === 1, 'one has nothing left to do, and ends')
    client.send('.')
    t.match(await client.answer(), { status: 200 }, 'the request is answered')
    await haveEnded(pids)
  },
)

// The session ended while the master was still there, and the backend did not check again: it redialled forever, and then
// served old code next to its own successor.
void t.test('managed backends also notice when the worker died first', { timeout: LIMIT }, async (t) => {
  const { broker, pids } = await startWithBackends(t, 1)
  t.equal(pids.length, 1)
  signal(broker.pid, 'SIGKILL')
  broker.program.kill('SIGKILL')
  await broker.program.exited
  await haveEnded(pids)
  t.pass('they have ended')
})

/** Otherwise npm would leave compiled modules in the temporary folder. */
const NO_CACHE = { NODE_DISABLE_COMPILE_CACHE: '1' }

/** Apps, each with its own service, and each in a different way unable to notice its master's end by itself. */
function apps(t: Test): Record<string, string[]> {
  const waits = `setInterval(() => {}, 60_000)`
  const inline = (source: string) => [process.execPath, '--input-type=module', '-e', source]
  return {
    direct: program(),
    shell: behind.shell(program()),
    npm: behind.npm(program(), temporaryFolder(t)),
    loader: behind.loader(program()),
    // Drains, but has other work left.
    busy: inline(
      `import http from 'node:http'
      import { createBackend } from '@baton/backend-sdk'
      await createBackend().attach(http.createServer()).ready()
      ${waits}`,
    ),
    // Not registered yet.
    quiet: inline(`import '@baton/backend-sdk'; ${waits}`),
  }
}

/** The processes that hold the write end of the pipe that a managed process watches. */
function writersOfLifeline(managed: number): number[] {
  const [, inode] =
    /BATON_MASTER_LIFELINE=\d+:(\d+)/.exec(readFileSync(`/proc/${managed}/environ`, 'latin1')) ?? []
  return holders(`pipe:[${inode}]`, constants.O_WRONLY)
}

/** All managed processes, as soon as they have started. */
async function leaders(broker: Broker, count: number): Promise<number[]> {
  const started = () => broker.program.messages().filter(({ msg }) => msg === 'backend process started')
  await eventually(
    () => started().length === count,
    () => `${count} processes started:\n${broker.program.lines.join('\n')}`,
  )
  return started().map(({ peerPid }) => Number(peerPid))
}

async function sessionsHaveEnded(pids: readonly number[]): Promise<void> {
  const left = () => pids.flatMap((pid) => inSession(pid))
  await eventually(
    () => left().length === 0,
    () => `${left().join(', ')} still there`,
  )
}

/** Services for the commands of `apps`; in `cwd` they find the SDK. */
function managed(commands: Record<string, string[]>): Record<string, unknown> {
  const services = Object.entries(commands).map(([name, command]) => [name, { command, cwd: root }])
  return {
    services: { web: {}, ...(Object.fromEntries(services) as object) },
  }
}

// The backend checked its direct parent, and only when the SDK was loaded: a process below a shell, or one that was still
// starting when the master was killed, ran on forever.
void t.test(
  'a backend ends with its master and the worker, whatever is in between',
  { timeout: LIMIT },
  async (t) => {
    const commands = apps(t)
    const broker = await startBroker(t, { config: managed(commands), env: NO_CACHE })
    const pids = await leaders(broker, Object.keys(commands).length)
    for (const name of ['direct', 'shell', 'npm', 'loader', 'busy']) await broker.backends(1, name)
    // In place: same process, new program, same pipe.
    t.match(await reload(t, broker), { success: true })
    t.same(
      pids.filter((pid) => inSession(pid).length === 0),
      [],
      'a reload is not the end of a master',
    )
    await broker.backends(1, 'npm')
    const worker = await onlyWorker(t, broker)
    t.same(
      new Set(writersOfLifeline(pids[0] ?? 0)),
      new Set([broker.program.pid, worker]),
      'only the master and its worker have the write end',
    )
    broker.program.kill('SIGKILL')
    signal(worker, 'SIGKILL')
    await sessionsHaveEnded(pids)
  },
)

void t.test('a backend whose broker dies while it starts ends, too', { timeout: LIMIT }, async (t) => {
  const { quiet: _, ...commands } = apps(t)
  const broker = await startBroker(t, { config: managed(commands), env: NO_CACHE })
  const pids = await leaders(broker, Object.keys(commands).length)
  await broker.die()
  await sessionsHaveEnded(pids)
  t.pass('they have ended')
})
