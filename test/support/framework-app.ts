import { existsSync, rmSync, writeFileSync } from 'node:fs'
import { once } from 'node:events'
import http from 'node:http'
import { connect } from 'node:net'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Test } from 'tap'
import { builtApp, FRAMEWORK_ENV, FRAMEWORK_NODE } from '../../scripts/framework-apps.mjs'
import { AppRun, ask, Clients, NOTHING_LEFT } from './app-run.ts'
import { eventually } from './eventually.ts'
import { freePort } from './free-port.ts'
import { root, temporaryFolder } from './process.ts'
import { signal, signalGroup } from './signal.ts'

/** An app as its framework's documentation starts it in production. */
export interface FrameworkApp {
  /** A folder of `test/apps` with a `package.json`, or a file there that uses this repository's own packages. */
  readonly app: string
  /** The arguments of `node`, relative to the app's folder. Default: the file. */
  readonly args?: readonly string[]
  readonly env?: NodeJS.ProcessEnv
  /** A route that answers with the pid, and what the framework knows of the client. */
  readonly who?: string
  /** Whether `who` answers `PID ADDRESS PORT`, `PID ADDRESS`, or the pid alone. */
  readonly sees?: 'address and port' | 'address' | 'nothing'
  /** A page that the framework renders: its path, and what is in it. */
  readonly page?: readonly [path: string, content: RegExp]
  /** A route that sends the pid, then a line every few milliseconds until the file RELEASE exists, then `end`. */
  readonly stream?: string
  /** Part of what each process of the app prints when its own shutdown, at SIGTERM, is over. */
  readonly shutdown?: string
  /** It is not told its port: it takes its default one, and `--listen` says where that is. */
  readonly defaultPort?: boolean
  /** Signal for the end. */
  readonly signal?: NodeJS.Signals
}

/** Two processes of an app under `baton run`, and what it takes to see which of them answers. */
export class FrameworkRun {
  readonly run: AppRun
  readonly port: number
  readonly #release: string
  readonly #app: FrameworkApp

  private constructor(run: AppRun, port: number, release: string, app: FrameworkApp) {
    this.run = run
    this.port = port
    this.#release = release
    this.#app = app
  }

  /** Resolves when both processes have registered. */
  static async start(t: Test, app: FrameworkApp): Promise<FrameworkRun> {
    const port = await freePort()
    const release = join(temporaryFolder(t), 'release')
    const isFile = !existsSync(join(root, 'test/apps', app.app, 'package.json'))
    const run = new AppRun(t, {
      command: [FRAMEWORK_NODE, ...(app.args ?? [join(root, 'test/apps', app.app)])],
      // An end that has to wait for this deadline never comes within the limits of the tests.
      options: [
        '-i',
        '2',
        '--drain-deadline',
        '10h',
        ...(app.defaultPort === true ? ['--listen', `127.0.0.1:${port}`] : []),
      ],
      env: {
        ...FRAMEWORK_ENV,
        ...app.env,
        PORT: app.defaultPort === true ? undefined : String(port),
        RELEASE: release,
      },
      ...(!isFile && { cwd: builtApp(app.app) }),
    })
    const started = new FrameworkRun(run, port, release, app)
    await run.serving(2)
    return started
  }

  url(path: string): string {
    return `http://127.0.0.1:${this.port}${path}`
  }

  get who(): string {
    return this.url(this.#app.who ?? '/')
  }

  /** Pids in the answers to new connections, until `count` different ones that are `wanted` have answered. */
  async answering(count: number, wanted: (pid: string) => boolean = () => true): Promise<Set<string>> {
    const pids = new Set<string>()
    await eventually(
      async () => {
        const answers = await Promise.all(Array.from({ length: 4 }, () => ask(this.who)))
        for (const pid of answers.map(({ body }) => pidOf(body))) if (wanted(pid)) pids.add(pid)
        return pids.size >= count
      },
      () => `${count} processes answer; there were ${[...pids].join(', ')}`,
    )
    return pids
  }

  async openStream(t: Test): Promise<OpenStream> {
    rmSync(this.#release, { force: true })
    return new OpenStream(t, this.url(this.#app.stream ?? '/stream')).begun()
  }

  /** The streams that are open end. */
  release(): void {
    writeFileSync(this.#release, '')
  }

  async isClosed(): Promise<boolean> {
    const socket = connect(this.port, '127.0.0.1')
    try {
      await once(socket, 'connect')
      return false
    } catch (error) {
      return (error as NodeJS.ErrnoException).code === 'ECONNREFUSED'
    } finally {
      socket.destroy()
    }
  }
}

/** A kept connection with a request every 50 ms, idle in between, so that no server's keep-alive time is over. */
export class KeptConnection {
  /** The local ends that it has had: one, if it was never closed. */
  readonly locals = new Set<string>()
  /** The pids that have answered, each once. */
  readonly pids = new Set<string>()
  readonly failures: string[] = []
  readonly #agent = new http.Agent({ keepAlive: true, maxSockets: 1 })
  readonly #over: Promise<void>
  #stopped = false

  constructor(t: Test, url: string) {
    this.#over = this.#visit(url)
    t.teardown(() => this.stop())
  }

  async stop(): Promise<void> {
    this.#stopped = true
    await this.#over
    this.#agent.destroy()
  }

  async #visit(url: string): Promise<void> {
    while (!this.#stopped) {
      try {
        const { body, local } = await ask(url, { agent: this.#agent })
        this.locals.add(local)
        this.pids.add(pidOf(body))
      } catch (error) {
        this.failures.push(String(error))
      }
      await sleep(50)
    }
  }
}

/** A long answer. */
class OpenStream {
  text = ''
  /** `complete`, or the error that ended it. */
  readonly ended: Promise<string>

  constructor(t: Test, url: string) {
    this.ended = new Promise((resolve) => {
      const request = http.get(url, { agent: false }, (response) => {
        response.setEncoding('utf8').on('data', (chunk: string) => (this.text += chunk))
        response.on('error', (error: NodeJS.ErrnoException) => resolve(error.code ?? error.message))
        response.on('end', () => resolve(response.complete ? 'complete' : 'cut'))
      })
      request.on('error', (error: NodeJS.ErrnoException) => resolve(error.code ?? error.message))
      t.teardown(() => request.destroy())
    })
  }

  /** Resolves when more than its first line is there: it is sent while it is made. */
  async begun(): Promise<this> {
    await eventually(
      () => this.text.includes('waiting\n'),
      () => `the stream begins: ${this.text}`,
    )
    return this
  }

  get pid(): string {
    return pidOf(this.text)
  }

  get isWhole(): boolean {
    return this.text.endsWith('\nend\n')
  }
}

function pidOf(body: string): string {
  return /^\d+/.exec(body)?.[0] ?? ''
}

/**
 * The app starts and answers; requests are spread over both processes; a deploy under load fails no request, cuts no stream, and takes idle
 * connections along; the stop lets a stream finish, and leaves nothing behind.
 */
export async function servesUnderBaton(t: Test, app: FrameworkApp): Promise<void> {
  const { page, sees = 'address and port', shutdown, signal: name = 'SIGTERM' } = app
  const started = await FrameworkRun.start(t, app)
  const { run } = started

  if (page !== undefined) t.match((await ask(started.url(page[0]))).body, page[1])
  const { body, local } = await ask(started.who, { agent: false, localAddress: '127.0.0.2' })
  const [, ...seen] = body.replace('::ffff:', '').split(' ')
  const known = { 'address and port': 2, address: 1, nothing: 0 }[sees]
  t.equal(seen.join(' '), local.split(' ').slice(0, known).join(' '), 'the client’s address')
  const before = await started.answering(2)

  const kept = new KeptConnection(t, started.who)
  const stream = await started.openStream(t)
  t.ok(before.has(stream.pid))
  const clients = new Clients(t, started.who)
  await clients.more(20)
  await eventually(() => kept.pids.size > 0, 'the kept connection is answered')
  const deploy = await run.deploy('--at-once', '2')
  await run.serving(4)
  // Both versions serve until the old one is drained.
  const moved = () => [...kept.pids].some((pid) => !before.has(pid))
  await eventually(moved, () => `a new process answers on the kept connection:\n${deploy.lines.join('\n')}`)
  await kept.stop()
  t.same(kept.failures, [])
  t.equal(kept.locals.size, 1, 'a kept connection stays open')
  t.ok(deploy.running, 'the stream is waited for')
  started.release()
  t.equal(await stream.ended, 'complete')
  t.ok(stream.isWhole, 'to its end')
  t.match(await deploy.exited, { code: 0 }, deploy.lines.join('\n'))
  await clients.more(20)
  await clients.stop()
  t.same(clients.failures, [])
  t.notOk([...(await started.answering(2))].some((pid) => before.has(pid)))

  const last = await started.openStream(t)
  const processes = run.processes()
  if (name === 'SIGTERM') signal(run.program.pid, name)
  else signalGroup(run.program.pid, name)
  await run.program.line((line) => line.startsWith('draining '), 'that it drains')
  started.release()
  t.equal(await last.ended, 'complete')
  t.ok(last.isWhole, 'to its end')
  t.same(await run.ended(processes), NOTHING_LEFT)
  t.ok(await started.isClosed())
  if (shutdown !== undefined)
    t.equal(
      run.program.lines.filter((line) => line.includes(shutdown)).length,
      4,
      'each process has run its own shutdown',
    )
}
