import { once } from 'node:events'
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { type AddressInfo, createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import t, { type Test } from 'tap'
import { Program, root } from './support/process.ts'

const pages = [
  'README.md',
  'examples/README.md',
  'packages/broker/README.md',
  'packages/backend-sdk/README.md',
]

interface Block {
  language: string
  /** `terminal-1`, or the name of a file. */
  target: string
  text: string
}

/** The fenced blocks that say where they belong, in their order. */
function tourOf(markdown: string): Block[] {
  return [...markdown.matchAll(/^```(\w+) (\S+)\n([^]*?)^```$/gm)].map(
    ([, language = '', target = '', text = '']) => ({
      language,
      target,
      text,
    }),
  )
}

async function freePorts(count: number): Promise<string[]> {
  const servers = Array.from({ length: count }, () => createServer().listen(0, '127.0.0.1'))
  await Promise.all(servers.map((server) => once(server, 'listening')))
  const ports = servers.map((server) => String((server.address() as AddressInfo).port))
  for (const server of servers) server.close()
  await Promise.all(servers.map((server) => once(server, 'close')))
  return ports
}

/** As a shell that npm did not start: what `npm test` puts into the environment would send npm to this repository. */
function withoutNpm(): NodeJS.ProcessEnv {
  const npms = Object.keys(process.env).filter(
    (name) => /^(npm_|INIT_CWD$)/.test(name) && name !== 'npm_config_registry',
  )
  return Object.fromEntries(npms.map((name) => [name, undefined]))
}

/** Each of the two processes has its port. */
const readyUnderRun = [1, 2].map((instance) => new RegExp(`^app\\.${instance} .*registered with the broker`))

/** One of the README's terminals: a shell that stops at the first command that fails. */
class Terminal {
  readonly program: Program
  #blocks = 0

  constructor(t: Test, folder: string, env: NodeJS.ProcessEnv) {
    this.program = new Program(t, 'bash', ['-e'], { cwd: folder, env, group: true })
  }

  /** Resolves when the commands have ended, or the last of them is a program that now serves. */
  async type(text: string): Promise<void> {
    const ended = this.#marker()
    const serves = text.includes('baton run')
      ? readyUnderRun
      : [/accepting connections|registered with the broker/]
    this.program.child.stdin?.write(`${text}\necho '${ended}'\n`)
    for (const sign of serves)
      await this.program.line((line) => line === ended || sign.test(line), `the end of:\n${text}`)
  }

  /** Resolves when the program that the last block has left running has ended by itself, with exit code 0. */
  async prompt(): Promise<void> {
    await this.program.line((line) => line === `end of block ${this.#blocks}`, 'a prompt')
  }

  #marker(): string {
    this.#blocks += 1
    return `end of block ${this.#blocks}`
  }
}

t.setTimeout(60_000)

void t.test('the tour of the README is true', { timeout: 45_000 }, async (t) => {
  // Removed last (teardowns run in reverse): the terminals' programs write here.
  const folder = mkdtempSync(join(tmpdir(), 'baton-r-'))
  t.teardown(() => rmSync(folder, { recursive: true, force: true }))
  symlinkSync(root, join(folder, 'baton'))
  mkdirSync(join(folder, 'tmp'))
  const [unchanged, web, admin] = (await freePorts(3)) as [string, string, string]
  const env = {
    ...withoutNpm(),
    // The tour leaves the runtime folder to the defaults. With the last name that os.tmpdir() goes by, and an
    // XDG_RUNTIME_DIR that is to be ignored, broker and SDK meet only if both have the whole rule.
    TMPDIR: undefined,
    TMP: undefined,
    TEMP: join(folder, 'tmp'),
    XDG_RUNTIME_DIR: 'relative',
    npm_config_audit: 'false',
    npm_config_fund: 'false',
  }

  const blocks = tourOf(readFileSync(join(root, 'README.md'), 'utf8'))
  t.same(
    [...new Set(blocks.map(({ target }) => target))],
    [
      'terminal-1',
      'server.js',
      'terminal-2',
      'baton.json',
      'app.js',
      'terminal-3',
      'terminal-4',
      'terminal-5',
      'terminal-6',
    ],
  )
  const terminals = new Map<string, Terminal>()
  const terminal = (name: string): Terminal => {
    const existing = terminals.get(name)
    if (existing) return existing
    const created = new Terminal(t, folder, env)
    terminals.set(name, created)
    return created
  }
  for (const { language, target, text } of blocks) {
    const here = text.replaceAll('3000', unchanged).replaceAll('8080', web).replaceAll('9180', admin)
    if (language === 'sh') await terminal(target).type(here)
    else writeFileSync(join(folder, 'my-app', target), here)
  }

  const greeted = terminal('terminal-2').program.lines.filter((line) => /^Hello from \d+$/.test(line))
  t.equal(new Set(greeted).size, 2, 'under baton run, two processes of the app have answered')

  const looking = terminal('terminal-5').program.lines
  const [before, after] = looking.flatMap((line) => /^Hello from (\d+)$/.exec(line)?.[1] ?? [])
  t.ok(before)
  t.ok(after)
  t.not(after, before, 'the new process answers after the deploy')
  t.ok(
    looking.some((line) => new RegExp(`^web/web-1 +ready .*\\b${before}\\b`).test(line)),
    'status shows the app',
  )
  t.ok(
    looking.some((line) => new RegExp(`^web/web-2 +ready .*\\b${after}\\b`).test(line)),
    'and the new one',
  )
  t.ok(looking.includes('baton_connections_total{service="web",outcome="handed_off"} 1'))
  t.ok(looking.some((line) => line.startsWith('web/web-1: draining 1 backend')))
  t.ok(looking.includes('reloaded'))
  await terminal('terminal-4').prompt()
  t.pass('the drained process has ended by itself')
})

void t.test('every link of the READMEs leads somewhere', async (t) => {
  for (const page of pages) {
    const links = [...readFileSync(join(root, page), 'utf8').matchAll(/\]\(([^)#:]+)(?:#[^)]*)?\)/g)]
    t.ok(links.length > 0, page)
    for (const [, link = ''] of links) t.ok(existsSync(join(root, dirname(page), link)), `${page}: ${link}`)
  }
})

void t.test('the READMEs of the packages name every folder of src', async (t) => {
  for (const name of ['broker', 'backend-sdk']) {
    const page = readFileSync(join(root, 'packages', name, 'README.md'), 'utf8')
    const named = [...page.matchAll(/^\| `src\/(\w[\w-]*)\/` \|/gm)].map(([, folder]) => folder)
    const folders = readdirSync(join(root, 'packages', name, 'src'), { withFileTypes: true })
      .filter((entry) => entry.isDirectory())
      .map((entry) => entry.name)
    t.same(new Set(named), new Set(folders), name)
  }
})
