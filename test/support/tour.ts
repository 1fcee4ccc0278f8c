import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import type { Test } from 'tap'
import { freePort } from './free-port.ts'
import { type Block, blocksOf, read } from './markdown.ts'
import { Program } from './process.ts'

/** The pages whose terminals are replayed: by `test/slow/readme.test.ts`, and by `test/slow/guides.test.ts`. */
export const TOURS = [
  'README.md',
  'docs/tutorial/first-deploy.md',
  'docs/how-to/fastify.md',
  'docs/how-to/express.md',
  'docs/how-to/nestjs.md',
  'docs/how-to/socket-io.md',
  'docs/how-to/tls.md',
  'docs/how-to/from-pm2.md',
  'docs/how-to/from-cluster.md',
  'docs/how-to/grpc.md',
  'docs/how-to/python.md',
  'docs/how-to/many-hosts.md',
]

/** The ports in the pages; each tour replaces them. */
const PORTS = ['3000', '8080', '8443', '9180', '9181'] as const

/** Programs log this once they serve; under `baton run` each of the two processes started by the pages does. */
const SERVING = [/accepting connections|registered with the broker/]
const SERVING_UNDER_RUN = [1, 2].map(
  (instance) => new RegExp(`^app\\.${instance} .*registered with the broker`),
)

/** The blocks of a page that name their target, in the order of the page. */
export function tourOf(page: string): (Block & { target: string })[] {
  return blocksOf(page).filter((block): block is Block & { target: string } => block.target !== undefined)
}

/** A page, followed to the letter: each `terminal-N` is a separate shell, every other block a file. */
export class Tour {
  /** Removed with the test, after the programs that write to it. */
  readonly folder: string
  readonly #test: Test
  readonly #env: NodeJS.ProcessEnv
  readonly #terminals = new Map<string, Terminal>()
  readonly #ports: ReadonlyMap<string, string>

  static async begin(t: Test): Promise<Tour> {
    const ports = new Map<string, string>()
    for (const port of PORTS) ports.set(port, String(await freePort()))
    return new Tour(t, ports)
  }

  private constructor(t: Test, ports: ReadonlyMap<string, string>) {
    this.#ports = ports
    this.#test = t
    this.folder = mkdtempSync(join(tmpdir(), 'baton-r-'))
    t.teardown(() => rmSync(this.folder, { recursive: true, force: true }))
    mkdirSync(join(this.folder, 'tmp'))
    this.#env = {
      ...withoutNpm(),
      // The pages rely on the default runtime folder. With the last variable that os.tmpdir() reads, and an
      // XDG_RUNTIME_DIR that must be ignored, broker and SDK agree only if both implement the whole rule.
      TMPDIR: undefined,
      TMP: undefined,
      TEMP: join(this.folder, 'tmp'),
      XDG_RUNTIME_DIR: 'relative',
      npm_config_audit: 'false',
      npm_config_fund: 'false',
    }
  }

  /** @param work folder of the reader's files, below the tour's */
  async follow(page: string, work = '.'): Promise<void> {
    for (const block of tourOf(page)) {
      if (block.language === 'sh') await this.#terminal(block.target).type(this.#here(block.text))
      else this.#writeBlock(join(work, block.target), block)
    }
  }

  /** A file that the reader already has. */
  write(name: string, text: string): void {
    const file = join(this.folder, name)
    mkdirSync(dirname(file), { recursive: true })
    writeFileSync(file, this.#here(text))
  }

  /** Replaces the pages' ports with those of this tour. */
  #here(text: string): string {
    return [...this.#ports].reduce((sum, [port, free]) => sum.replaceAll(port, free), text)
  }

  /** The output of a terminal so far. */
  lines(terminal: string): readonly string[] {
    return this.#terminal(terminal).program.lines
  }

  /** Resolves once the program that the last block left running there has exited with 0. */
  async prompt(terminal: string): Promise<void> {
    await this.#terminal(terminal).prompt()
  }

  #terminal(name: string): Terminal {
    const existing = this.#terminals.get(name)
    if (existing) return existing
    const created = new Terminal(this.#test, this.folder, this.#env)
    this.#terminals.set(name, created)
    return created
  }

  #writeBlock(name: string, { language, from = '', text }: Block): void {
    this.write(name, text)
    // The reader's own compiler: `src/app.ts` becomes `dist/app.js`.
    const compiled = (file: string) => file.replace(/\bsrc\/([\w-]+)\.ts$/, 'dist/$1.js')
    if (language === 'ts') this.write(compiled(name), read(compiled(from)))
  }
}

/** A shell that stops at the first failing command. */
class Terminal {
  readonly program: Program
  #blocks = 0

  constructor(t: Test, folder: string, env: NodeJS.ProcessEnv) {
    this.program = new Program(t, 'bash', ['-e'], { cwd: folder, env, group: true })
  }

  /** Resolves when the commands have ended, or the last of them is a program that now serves. */
  async type(text: string): Promise<void> {
    const ended = this.#marker()
    // On a line of its own, even if the last output had no line break.
    this.program.child.stdin?.write(`${text}\nprintf '\\n%s\\n' '${ended}'\n`)
    for (const sign of text.includes('baton run') ? SERVING_UNDER_RUN : SERVING)
      await this.program.line((line) => line === ended || sign.test(line), `the end of:\n${text}`)
  }

  async prompt(): Promise<void> {
    await this.program.line((line) => line === `end of block ${this.#blocks}`, 'a prompt')
  }

  #marker(): string {
    this.#blocks += 1
    return `end of block ${this.#blocks}`
  }
}

/** Like a shell that npm did not start: the variables set by `npm test` would direct npm to this repository. */
function withoutNpm(): NodeJS.ProcessEnv {
  const npms = Object.keys(process.env).filter(
    (name) => /^(npm_|INIT_CWD$)/.test(name) && name !== 'npm_config_registry',
  )
  return Object.fromEntries(npms.map((name) => [name, undefined]))
}
