import { readdirSync, readFileSync } from 'node:fs'
import http from 'node:http'
import https from 'node:https'
import type { Test } from 'tap'
import { batonCommand } from './broker.ts'
import { eventually } from './eventually.ts'
import { Program, temporaryFolder } from './process.ts'
import { exists, signal, signalGroup, signalIfThere } from './signal.ts'

const PRINTED = /^to replace the app's processes: baton deploy app --config (\S+)$/

export interface AppRunOptions {
  /** The app's command, after `--`. */
  readonly command: readonly string[]
  /** Options before `--`. */
  readonly options?: readonly string[]
  readonly env?: NodeJS.ProcessEnv
  readonly cwd?: string
  /** Temporary folder to use instead of a new one. */
  readonly temporary?: string
  /** Shell script to run it in, with `"$0" "$@"` for `baton run`; `program` is then the shell. */
  readonly shell?: string
}

/** An app under `baton run`, as started in a terminal: leader of its own process group. */
export class AppRun {
  readonly program: Program
  /** `baton run` creates its folder here; it must be empty afterwards. */
  readonly #folder: string
  readonly #test: Test

  constructor(
    t: Test,
    { command, options = [], env, cwd, shell, temporary = temporaryFolder(t) }: AppRunOptions,
  ) {
    this.#test = t
    this.#folder = temporary
    const whole = [process.execPath, batonCommand, 'run', ...options, '--', ...command]
    const [file = '', ...args] = shell === undefined ? whole : ['bash', '-c', shell, ...whole]
    this.program = new Program(t, file, args, {
      env: { ...env, TMPDIR: this.#folder },
      group: true,
      ...(cwd !== undefined && { cwd }),
    })
    // Before the program is killed: the app's processes are in their own sessions.
    t.teardown(() => {
      for (const pid of this.program.running ? this.processes() : []) signalIfThere(pid, 'SIGKILL')
    })
  }

  /** Resolves once `count` processes of the app have registered since the start. */
  async serving(count: number, service = 'app'): Promise<this> {
    const registered = () =>
      this.program.lines.filter(
        (line) => line.startsWith('backend registered ') && line.includes(` service=${service} `),
      )
    await eventually(
      () => {
        if (registered().length >= count) return true
        if (!this.program.running) throw new Error(`it has ended:\n${this.program.lines.join('\n')}`)
        return false
      },
      () => `${count} registered:\n${this.program.lines.join('\n')}`,
    )
    return this
  }

  async configFile(): Promise<string> {
    const line = await this.program.line((each) => PRINTED.test(each), 'how to deploy')
    return PRINTED.exec(line)?.[1] ?? ''
  }

  /** The listeners of the app. */
  async listeners(): Promise<{ name: string; listen: string; protocol: string; service: string }[]> {
    const config = JSON.parse(readFileSync(await this.configFile(), 'utf8')) as {
      listeners: { name: string; listen: string; protocol: string; service: string }[]
    }
    return config.listeners.filter(({ name }) => name !== 'local')
  }

  /** The deploy command exactly as printed. Not awaited, so that its output can be. */
  async deploy(...options: string[]): Promise<Program> {
    const args = ['deploy', 'app', '--config', await this.configFile(), ...options]
    return new Program(this.#test, process.execPath, [batonCommand, ...args])
  }

  /** All descendants of `baton run`. */
  processes(): number[] {
    return descendants(this.program.pid)
  }

  /** Sends the signal to the master, or to its whole process group like a terminal; then checks what is left. */
  async end(name: NodeJS.Signals, to: 'master' | 'group' = 'master'): Promise<AppRunEnd> {
    const processes = this.processes()
    if (to === 'master') signal(this.program.pid, name)
    else signalGroup(this.program.pid, name)
    return this.ended(processes)
  }

  /** @param processes its descendants before the end */
  async ended(processes: readonly number[]): Promise<AppRunEnd> {
    const { code } = await this.program.exited
    return { code, processes: processes.filter(exists), files: readdirSync(this.#folder) }
  }
}

/** How `baton run` ended, and what it left behind. */
export interface AppRunEnd {
  readonly code: number | null
  readonly processes: readonly number[]
  readonly files: readonly string[]
}

/** The expected end. */
export const NOTHING_LEFT: AppRunEnd = { code: 0, processes: [], files: [] }

/** The response to one request. Certificates are not verified. */
export function ask(
  url: string,
  options: http.RequestOptions = { agent: false },
): Promise<{ body: string; local: string }> {
  const { request } = url.startsWith('https:') ? https : http
  const whole: https.RequestOptions = { ...options, rejectUnauthorized: false }
  return new Promise((resolve, reject) => {
    const asked = request(url, whole, (response) => {
      const local = `${response.socket.localAddress} ${response.socket.localPort}`
      let body = ''
      response.setEncoding('utf8').on('data', (chunk: string) => (body += chunk))
      response.on('error', reject)
      response.on('end', () => {
        if (response.statusCode === 200) resolve({ body, local })
        else reject(new Error(`status ${response.statusCode}: ${body}`))
      })
    })
    asked.on('error', reject)
    asked.end()
  })
}

/** Clients with keep-alive connections, and clients with a new connection per request, until stopped. */
export class Clients {
  readonly failures: string[] = []
  answers = 0
  readonly #agent: http.Agent
  readonly #all: Promise<unknown>
  #stopped = false

  constructor(t: Test, url: string) {
    const { Agent } = url.startsWith('https:') ? https : http
    this.#agent = new Agent({ keepAlive: true })
    const fresh = { agent: false, headers: { Connection: 'close' } }
    const kept = { agent: this.#agent }
    this.#all = Promise.all([kept, kept, kept, fresh, fresh].map((options) => this.#visit(url, options)))
    t.teardown(() => this.stop())
  }

  /** Resolves after `count` more responses. */
  async more(count: number): Promise<void> {
    const enough = this.answers + count
    await eventually(
      () => this.answers >= enough,
      () => `${count} answers: ${this.failures.join(', ')}`,
    )
  }

  async stop(): Promise<void> {
    this.#stopped = true
    await this.#all
    this.#agent.destroy()
  }

  async #visit(url: string, options: http.RequestOptions): Promise<void> {
    while (!this.#stopped) {
      try {
        await ask(url, options)
        this.answers += 1
      } catch (error) {
        this.failures.push(String(error))
      }
      // A pause between requests: two processors have to run everything.
      await new Promise((resolve) => setTimeout(resolve, 5))
    }
  }
}

function descendants(pid: number): number[] {
  try {
    const text = readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8')
    const children = text.split(' ').filter(Boolean).map(Number)
    return children.flatMap((child) => [child, ...descendants(child)])
  } catch {
    return []
  }
}
