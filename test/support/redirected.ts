import { chownSync, closeSync, constants, openSync, readdirSync, readSync, writeFileSync } from 'node:fs'
import { spawnSync } from 'node:child_process'
import http from 'node:http'
import { join } from 'node:path'
import type { Test } from 'tap'
import { batonCommand, Broker, type Status } from './broker.ts'
import { eventually } from './eventually.ts'
import { freePort } from './free-port.ts'
import { SOON } from './limits.ts'
import { PseudoTerminal } from './pseudo-terminal.ts'
import { Program, root, temporaryFolder } from './process.ts'

/** Common start of all command lines here: the shell redirects, then becomes the command. `prefix`: for example setpriv. */
function shell(redirection: string, command: readonly string[], prefix: readonly string[] = []): string[] {
  return ['-c', `exec "$@" ${redirection}`, 'sh', ...prefix, process.execPath, batonCommand, ...command]
}

export interface RedirectedOptions {
  readonly config?: Record<string, unknown>
  readonly prefix?: readonly string[]
  readonly folder?: string
  readonly descriptors?: number
}

/**
 * `baton start` with its output redirected away from the test, for example `> /dev/full`; resolves once it answers
 * requests. Its one listener `web` is on a free port.
 */
export async function startRedirected(
  t: Test,
  redirection: string,
  { config = {}, prefix = [], folder = temporaryFolder(t) }: RedirectedOptions = {},
): Promise<Broker> {
  const [web, admin] = [`127.0.0.1:${await freePort()}`, `127.0.0.1:${await freePort()}`]
  const configFile = join(folder, 'baton.json')
  const settings = {
    runtimeDir: join(folder, 'run'),
    admin: { listen: admin },
    listeners: [{ name: 'web', listen: web, protocol: 'http', service: 'web' }],
    services: { web: {} },
    ...config,
  }
  writeFileSync(configFile, JSON.stringify(settings))
  const command = ['start', '--config', configFile]
  const program = new Program(t, 'bash', shell(redirection, command, prefix), { group: true })
  let status: Status | undefined
  await eventually(
    async () => {
      if (!program.running) throw new Error(`it has ended:\n${program.lines.join('\n')}`)
      status = await ask(`http://${admin}/api/v1/status`)
        .then((text) => JSON.parse(text) as Status)
        .catch(() => undefined)
      return status?.listeners[0]?.accepting === true
    },
    () => `the broker serves:\n${program.lines.join('\n')}`,
  )
  return new Broker(program, folder, configFile, {
    control: join(folder, 'run/control.sock'),
    admin,
    pid: status?.broker.pid,
    listeners: { web },
  })
}

export interface RedirectedRunOptions {
  /** Its output is not read. */
  readonly pauseOutput?: boolean
  /** Owner of the folder for its files. */
  readonly owner?: number
}

const APP = join(root, 'test/programs/chatty-app.mjs')

/** `baton run` of `test/programs/chatty-app.mjs`, with its output redirected. */
export class RedirectedRun {
  readonly port: number
  readonly #program: Program | undefined
  readonly #temporary: string

  private constructor(program: Program | undefined, port: number, temporary: string) {
    this.#program = program
    this.port = port
    this.#temporary = temporary
  }

  static async start(
    t: Test,
    redirection: string,
    env: NodeJS.ProcessEnv = {},
    prefix: readonly string[] = [],
    { pauseOutput = false, owner }: RedirectedRunOptions = {},
  ): Promise<RedirectedRun> {
    const temporary = temporaryFolder(t)
    if (owner !== undefined) chownSync(temporary, owner, owner)
    const port = await freePort()
    const program = new Program(t, 'bash', shell(redirection, ['run', '--', process.execPath, APP], prefix), {
      env: { ...env, TMPDIR: temporary, PORT: String(port) },
      group: true,
    })
    if (pauseOutput) {
      const { stdout } = program.child
      stdout?.removeAllListeners('data').pause()
      // While its output is not read, its end is not seen.
      t.teardown(() => stdout?.destroy())
    }
    const run = new RedirectedRun(program, port, temporary)
    // The app's processes are in their own sessions.
    t.teardown(() => (program.running ? program.kill('SIGTERM') : undefined))
    await run.answers()
    return run
  }

  /** The same in a terminal, which shows its output. `exitCode`: the file that receives the exit code. */
  static async inTerminal(
    t: Test,
    env: NodeJS.ProcessEnv,
  ): Promise<{ run: RedirectedRun; terminal: PseudoTerminal; exitCode: string }> {
    const temporary = temporaryFolder(t)
    const exitCode = join(temporaryFolder(t), 'exit-code')
    const port = await freePort()
    const terminal = new PseudoTerminal(
      t,
      // The shell outlives its terminal.
      `trap : HUP; ${process.execPath} ${batonCommand} run -- ${process.execPath} ${APP}; echo $? > ${exitCode}`,
      {
        env: { ...env, TMPDIR: temporary, PORT: String(port) },
      },
    )
    const run = new RedirectedRun(undefined, port, temporary)
    await run.answers()
    return { run, terminal, exitCode }
  }

  get program(): Program {
    if (this.#program === undefined) throw new Error('it runs in a terminal')
    return this.#program
  }

  /** Resolves with the pid of the app process that answers, once it is not `except`. */
  async answers(except?: number): Promise<number> {
    let pid = 0
    await eventually(
      async () => {
        if (this.#program?.running === false) throw new Error(`it has ended: ${this.#said}`)
        pid = Number(await ask(`http://127.0.0.1:${this.port}/`).catch(() => 0))
        return pid > 1 && pid !== except
      },
      () => `the app answers: ${this.#said}`,
    )
    return pid
  }

  get #said(): string {
    return this.#program?.lines.slice(-20).join('\n') ?? 'it runs in a terminal'
  }

  /** The folder created by `baton run`. */
  get folder(): string {
    const [name = ''] = readdirSync(this.#temporary).filter((each) => each.startsWith('baton-run-'))
    return join(this.#temporary, name)
  }

  get configFile(): string {
    return join(this.folder, 'baton.json')
  }

  async dropped(): Promise<number> {
    const metrics = await ask({ socketPath: join(this.folder, 'admin.sock'), path: '/metrics' }, SOON)
    return Number(/^baton_log_lines_dropped_total (\d+)$/m.exec(metrics)?.[1])
  }
}

/** A reader of a named pipe that reads only when told to. It holds the pipe open until the test ends. */
export class SlowReader {
  readonly path: string
  readonly #fd: number
  readonly #buffer = Buffer.alloc(256 * 1024)

  constructor(t: Test, folder = temporaryFolder(t)) {
    this.path = join(folder, 'pipe')
    const { status } = spawnSync('mkfifo', ['-m', '600', this.path])
    if (status !== 0) throw new Error('mkfifo failed')
    this.#fd = openSync(this.path, constants.O_RDWR | constants.O_NONBLOCK)
    t.teardown(() => closeSync(this.#fd))
  }

  /** Reads what is available now. */
  read(): string {
    let text = ''
    for (;;) {
      try {
        text += this.#buffer.toString('latin1', 0, readSync(this.#fd, this.#buffer))
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code === 'EAGAIN') return text
        throw error
      }
    }
  }

  /** Reads until `pattern` matches. */
  async reads(pattern: RegExp): Promise<string> {
    let text = ''
    await eventually(
      () => {
        text += this.read()
        return pattern.test(text)
      },
      () => `${pattern} in:\n${text.slice(-2000)}`,
    )
    return text
  }
}

/**
 * The body of one response, on its own connection.
 *
 * @param timeout ms without a byte, after which it fails: short for a request that is repeated
 */
function ask(where: string | http.RequestOptions, timeout = 5000): Promise<string> {
  return new Promise((resolve, reject) => {
    const options =
      typeof where === 'string' ? { ...urlOptions(where), agent: false } : { ...where, agent: false }
    const request = http.request({ ...options, timeout }, (response) => {
      let body = ''
      response.setEncoding('utf8').on('data', (chunk: string) => (body += chunk))
      response.on('error', reject)
      response.on('end', () => resolve(body))
    })
    request.on('timeout', () => request.destroy(new Error(`no answer in ${timeout} ms`)))
    request.on('error', reject)
    request.end()
  })
}

function urlOptions(url: string): http.RequestOptions {
  const { hostname, port, pathname } = new URL(url)
  return { hostname, port, path: pathname }
}
