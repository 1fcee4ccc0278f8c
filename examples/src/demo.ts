// `npm start`: a broker in front of two Fastify backends, each in its own process as in production. A backend that dies is
// restarted. Ctrl-C stops everything and removes all files.
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { type AddressInfo, createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join, relative } from 'node:path'
import { createInterface } from 'node:readline'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'

const BACKENDS = 2
/** Delay in ms, long enough to see in `baton status` that a backend is missing. */
const RESTART_AFTER = 1000
/** Time in ms for everything to stop after Ctrl-C. Without a limit, a browser's idle connection would delay a draining backend. */
const END_WITHIN = 3000
const WARN = 40 // pino's level

interface LogLine {
  level: number
  msg: string
}

const batonCommand = fileURLToPath(new URL('bin/baton.js', import.meta.resolve('@baton/broker/package.json')))
const backendProgram = fileURLToPath(new URL('fastify.js', import.meta.url))
const folder = mkdtempSync(join(tmpdir(), 'baton-demo-'))
const configFile = join(folder, 'baton.json')
const children = new Set<ChildProcess>()
const stopping = new AbortController()

process.on('exit', () => {
  for (const child of children) child.kill('SIGKILL')
  rmSync(folder, { recursive: true, force: true })
})
// From terminals and process managers. npm forwards a signal that its process group has already received, so a second one changes nothing.
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, () => void stop(0))

const [port, adminPort] = [await freePort(8080), await freePort(9180)]
writeFileSync(
  configFile,
  JSON.stringify({
    runtimeDir: join(folder, 'run'),
    admin: { listen: `127.0.0.1:${adminPort}` },
    listeners: [{ name: 'web', listen: `127.0.0.1:${port}`, service: 'web' }],
    services: { web: { balance: 'round-robin' } },
  }),
)

const broker = run([batonCommand, 'start', '--config', configFile])
broker.once('close', (code, signal) => {
  if (stopping.signal.aborted) return
  console.error(`The broker ended (${signal ?? `exit code ${code}`}).`)
  void stop(1)
})
if (await logged(broker, 'accepting connections')) {
  const pids = await Promise.all(Array.from({ length: BACKENDS }, startBackend))
  if (!stopping.signal.aborted) introduce(pids)
}

function introduce(pids: readonly (number | undefined)[]): void {
  const url = `http://127.0.0.1:${port}/`
  const baton = `node ${relative(process.cwd(), batonCommand)}`
  console.log(`
Baton runs in front of two Fastify backends (pids ${pids.join(' and ')}). Open

    ${url}

or try in another terminal:

    curl ${url}      several times: the backends take turns
    kill -9 ${pids[0]}      one of the two is gone; now curl again
    curl http://127.0.0.1:${adminPort}/metrics      the broker's metrics
    ${baton} status --config ${configFile}
    ${baton} top --config ${configFile}      the same, live; in a browser: http://127.0.0.1:${adminPort}/

To see it under load, keep this running at the same time:

    while curl -sf ${url}; do sleep 0.05; done

Ctrl-C stops everything.
`)
}

/** Resolves with the backend's pid once it is registered, or with undefined if it ended before that. */
async function startBackend(): Promise<number | undefined> {
  const backend = run([backendProgram], {
    BATON_SOCKET: join(folder, 'run/control.sock'),
    BATON_SERVICE: 'web',
  })
  backend.once('close', (code, signal) => void replace(backend, signal ?? `exit code ${code}`))
  return (await logged(backend, 'registered with the broker')) ? backend.pid : undefined
}

async function replace(dead: ChildProcess, why: string): Promise<void> {
  if (stopping.signal.aborted) return
  console.log(`Backend ${dead.pid} ended (${why}). A new one starts in ${RESTART_AFTER} ms.`)
  try {
    await sleep(RESTART_AFTER, undefined, { signal: stopping.signal })
  } catch {
    return // Ctrl-C came first.
  }
  const pid = await startBackend()
  if (pid !== undefined) console.log(`Backend ${pid} has taken its place.`)
}

function run(args: readonly string[], env: NodeJS.ProcessEnv = {}): ChildProcess {
  // In its own process group: a terminal sends Ctrl-C to the whole group, but `stop` controls when children end.
  const child = spawn(process.execPath, args, {
    detached: true,
    stdio: ['ignore', 'pipe', 'inherit'],
    env: { ...process.env, ...env },
  })
  children.add(child)
  child.once('close', () => children.delete(child))
  if (child.stdout) {
    createInterface({ input: child.stdout }).on('line', (line) => {
      const entry = JSON.parse(line) as LogLine
      if (entry.level >= WARN && !stopping.signal.aborted) console.error(line)
      child.emit('log', entry)
    })
  }
  return child
}

/** True at the first log line with this message; false if the child ends without one. */
function logged(child: ChildProcess, message: string): Promise<boolean> {
  return new Promise((resolve) => {
    child.on('log', ({ msg }: LogLine) => {
      if (msg === message) resolve(true)
    })
    child.once('close', () => resolve(false))
  })
}

async function stop(code: number): Promise<void> {
  if (stopping.signal.aborted) return
  stopping.abort()
  process.exitCode = code
  const ended = [...children].map((child) => once(child, 'close'))
  for (const child of children) child.kill('SIGTERM')
  const late = setTimeout(() => {
    for (const child of children) child.kill('SIGKILL')
  }, END_WITHIN)
  await Promise.all(ended)
  clearTimeout(late)
}

/** `wanted` if that port is free, otherwise a port chosen by the kernel. */
async function freePort(wanted: number): Promise<number> {
  const server = createServer()
  server.listen(wanted, '127.0.0.1')
  try {
    await once(server, 'listening')
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EADDRINUSE') throw error
    return freePort(0)
  }
  const { port: found } = server.address() as AddressInfo
  server.close()
  await once(server, 'close')
  return found
}
