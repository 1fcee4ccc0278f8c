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
  /** The id of a backend: in lines of the broker as `backend`, in its own as `id`. */
  backend?: string
  id?: string
}

const batonCommand = fileURLToPath(new URL('bin/baton.js', import.meta.resolve('@baton/broker/package.json')))
const backendProgram = fileURLToPath(new URL('fastify.js', import.meta.url))
const folder = mkdtempSync(join(tmpdir(), 'baton-demo-'))
const configFile = join(folder, 'baton.json')
const children = new Set<ChildProcess>()
/** Ids of backends that have answered a health check, and so may be chosen. */
const healthy = new Set<string>()
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
    // The check is a backend's first request, so what a process does once, at its first request, delays no client.
    services: { web: { balance: 'round-robin', healthCheck: { path: '/' } } },
  }),
)

const broker = run([batonCommand, 'start', '--config', configFile])
broker.once('close', (code, signal) => {
  if (stopping.signal.aborted) return
  console.error(`The broker ended (${signal ?? `exit code ${code}`}).`)
  void stop(1)
})
broker.on('log', ({ msg, backend }: LogLine) => {
  if (msg !== 'backend is healthy' || backend === undefined) return
  healthy.add(backend)
  broker.emit('healthy')
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

    curl ${url}      several times: the backends take turns (a browser stays with one while its connection is open)
    kill -9 ${pids[0]}      one of the two is gone; now curl again
    curl http://127.0.0.1:${adminPort}/metrics      the broker's metrics
    ${baton} status --config ${configFile}
    ${baton} top --config ${configFile}      the same, live; in a browser: http://127.0.0.1:${adminPort}/

To see it under load, keep this running at the same time:

    while curl -sf ${url}; do sleep 0.05; done

Ctrl-C stops everything.
`)
}

/** Resolves with the backend's pid once clients go to it, or with undefined if it or the broker ended before that. */
async function startBackend(): Promise<number | undefined> {
  const backend = run([backendProgram], {
    BATON_SOCKET: join(folder, 'run/control.sock'),
    BATON_SERVICE: 'web',
  })
  backend.once('close', (code, signal) => void replace(backend, signal ?? `exit code ${code}`))
  const registered = await logged(backend, 'registered with the broker')
  return registered?.id !== undefined && (await isHealthy(registered.id, backend)) ? backend.pid : undefined
}

/** True once this backend has answered a health check; false if it or the broker ends before that. */
function isHealthy(id: string, backend: ChildProcess): Promise<boolean> {
  return new Promise((resolve) => {
    const look = () => {
      if (!healthy.has(id) && children.has(backend) && children.has(broker)) return
      broker.off('healthy', look).off('close', look)
      backend.off('close', look)
      resolve(healthy.has(id))
    }
    broker.on('healthy', look).on('close', look)
    backend.on('close', look)
    look()
  })
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

/** The first log line with this message; undefined if the child ends without one. */
function logged(child: ChildProcess, message: string): Promise<LogLine | undefined> {
  return new Promise((resolve) => {
    child.on('log', (line: LogLine) => {
      if (line.msg === message) resolve(line)
    })
    child.once('close', () => resolve(undefined))
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
