import { readdirSync, readFileSync } from 'node:fs'
import http from 'node:http'
import https from 'node:https'
import type { Test } from 'tap'
import { batonCommand } from './broker.ts'
import { eventually } from './eventually.ts'
import { Program, temporaryFolder } from './process.ts'
import { exists, signal, signalGroup } from './signal.ts'

const PRINTED = /^to replace the app's processes: baton deploy app --config (\S+)$/

export interface AppRunOptions {
  /** Behind `--`. */
  readonly command: readonly string[]
  /** Before it. */
  readonly options?: readonly string[]
  readonly env?: NodeJS.ProcessEnv
  readonly cwd?: string
  /** For its folder, instead of a new one. */
  readonly temporary?: string
  /** Below a shell that runs this, in which `"$0" "$@"` is `baton run`: the shell is `program`. */
  readonly shell?: string
}

/** An app under `baton run`, as a user starts it in a terminal: leader of a process group of its own. */
export class AppRun {
  readonly program: Program
  /** Where `baton run` makes its folder, which is to be empty afterwards. */
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
    // Before the program itself: the app's processes are in sessions of their own.
    t.teardown(() => {
      for (const pid of this.program.running ? this.processes() : []) signal(pid, 'SIGKILL')
    })
  }

  /** Resolves when `count` processes of the app have registered since it was started. */
  async serving(count: number, service = 'app'): Promise<this> {
    const registered = () =>
      this.program.lines.filter(
        (line) => line.startsWith('backend registered ') && line.includes(` service=${service} `),
      )
    await eventually(
      () => registered().length >= count,
      () => `${count} registered:\n${this.program.lines.join('\n')}`,
    )
    return this
  }

  async configFile(): Promise<string> {
    const line = await this.program.line((each) => PRINTED.test(each), 'how to deploy')
    return PRINTED.exec(line)?.[1] ?? ''
  }

  /** The listeners that there are for the app. */
  async listeners(): Promise<{ name: string; listen: string; protocol: string; service: string }[]> {
    const config = JSON.parse(readFileSync(await this.configFile(), 'utf8')) as {
      listeners: { name: string; listen: string; protocol: string; service: string }[]
    }
    return config.listeners.filter(({ name }) => name !== 'local')
  }

  /** As it is printed to be typed. Not awaited: what it says can be. */
  async deploy(...options: string[]): Promise<Program> {
    const args = ['deploy', 'app', '--config', await this.configFile(), ...options]
    return new Program(this.#test, process.execPath, [batonCommand, ...args])
  }

  /** Everything below `baton run`. */
  processes(): number[] {
    return descendants(this.program.pid)
  }

  /** Sends the signal to the master, or to its whole process group as a terminal does; then looks at what is left. */
  async end(name: NodeJS.Signals, to: 'master' | 'group' = 'master'): Promise<AppRunEnd> {
    const processes = this.processes()
    if (to === 'master') signal(this.program.pid, name)
    else signalGroup(this.program.pid, name)
    return this.ended(processes)
  }

  /** @param processes those that there were */
  async ended(processes: readonly number[]): Promise<AppRunEnd> {
    const { code } = await this.program.exited
    return { code, processes: processes.filter(exists), files: readdirSync(this.#folder) }
  }
}

/** How `baton run` ended, and what it left. */
export interface AppRunEnd {
  readonly code: number | null
  readonly processes: readonly number[]
  readonly files: readonly string[]
}

/** As it should be. */
export const NOTHING_LEFT: AppRunEnd = { code: 0, processes: [], files: [] }

/** What one request is answered. Certificates are not looked at. */
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

/** Clients that keep their connections, and clients that take a new one for each request, until they are told to stop. */
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

  /** Resolves when so many more requests were answered. */
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
      // As people do: two processors are to be enough for everybody.
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
