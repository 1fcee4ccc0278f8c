import { existsSync, mkdirSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import t, { type Test } from 'tap'
import { baton, batonHere } from './support/command.ts'
import { allPages, type Block, blocksOf, read } from './support/markdown.ts'
import { temporaryFolder } from './support/process.ts'
import { tourOf, TOURS } from './support/tour.ts'

// Every command and program on a page is run by some test, or listed here with the reason why not.

interface Elsewhere {
  readonly page: string
  /** First characters of the block. */
  readonly begins: string
  /** The test that runs it, or the program whose name it shows. */
  readonly runBy?: string
  /** How that test writes the command, if it neither reads the page nor contains the program's name. */
  readonly as?: string
  /** Why no test can run it. */
  readonly because?: string
}

const EXAMPLES = { page: 'examples/README.md', runBy: 'test/examples.test.ts' }
const SUITE =
  'the suite itself, or a run of minutes that is no part of it; every command is a script of package.json'

const elsewhere: readonly Elsewhere[] = [
  { page: 'README.md', begins: 'npm start', because: SUITE },
  { page: 'CONTRIBUTING.md', begins: 'npm test', because: SUITE },
  {
    page: 'CONTRIBUTING.md',
    begins: 'npm pack',
    runBy: 'test/slow/packed.test.ts',
    as: 'packAll(',
  },
  {
    page: 'docs/how-to/deploy.md',
    begins: 'baton deploy web --env production',
    runBy: 'test/env-files.test.ts',
    as: "typed('docs/how-to/deploy.md'",
  },
  {
    page: 'docs/how-to/deploy.md',
    begins: 'baton scale web 4',
    runBy: 'test/scale.test.ts',
    as: "typed('docs/how-to/deploy.md'",
  },
  {
    page: 'docs/how-to/deploy.md',
    begins: 'baton shift web',
    runBy: 'test/shift.test.ts',
    as: "baton('shift', name",
  },
  {
    page: 'docs/internals/simulation.md',
    begins: 'npm test -- packages/broker/test/simulation',
    because: SUITE,
  },
  { page: 'docs/explanation/reliability.md', begins: 'npm run chaos -- --seconds', because: SUITE },
  { page: 'docs/explanation/reliability.md', begins: 'npm run chaos -- --kills', because: SUITE },
  { page: 'docs/reference/sdk.md', begins: 'npm run docs', runBy: 'test/slow/sdk-reference.test.ts' },
  { ...EXAMPLES, begins: 'npx baton start --config examples/baton.json' },
  { ...EXAMPLES, begins: 'export BATON_SOCKET=' },
  { ...EXAMPLES, begins: 'BATON_SERVICE=web node examples/dist/fastify.js' },
  { ...EXAMPLES, begins: 'BATON_SERVICE=web node examples/dist/express.js' },
  { ...EXAMPLES, begins: 'BATON_SERVICE=echo node examples/dist/net-echo.js' },
  { ...EXAMPLES, begins: 'node examples/dist/ws-chat-client.js' },
  { ...EXAMPLES, begins: 'npx baton deploy chat' },
  { ...EXAMPLES, begins: 'openssl req' },
  { ...EXAMPLES, begins: 'BATON_SERVICE=grpc node examples/dist/grpc.js' },
  { ...EXAMPLES, begins: 'BATON_SERVICE=web python3 examples/python/backend.py' },
  { page: 'examples/README.md', begins: 'node examples/dist/demo.js', runBy: 'test/demo.test.ts' },
  {
    page: 'examples/systemd/README.md',
    begins: 'sudo useradd',
    because: 'needs root, and systemd as process 1',
  },
  {
    page: 'examples/prometheus/README.md',
    begins: 'promtool check config',
    runBy: 'test/slow/prometheus.test.ts',
    as: "['check', 'config'",
  },
  {
    page: 'docs/how-to/docker.md',
    begins: 'npm pack',
    because: 'packs next to an app of yours; test/slow/packed.test.ts installs what is packed',
  },
  { page: 'docs/how-to/python.md', begins: 'sudo apt-get', because: 'installs packages of the system' },
  { page: 'examples/kubernetes/README.md', begins: 'kubectl apply', because: 'needs a cluster and an image' },
  {
    page: 'packages/broker/README.md',
    begins: 'baton run -i 2',
    because: 'one line each; docs/reference/command.md is held to --help',
  },
  {
    page: 'packages/backend-sdk/README.md',
    begins: 'node --import @baton/backend-sdk/register',
    runBy: 'packages/backend-sdk/test/register.test.ts',
    as: "'--import', PRELOAD",
  },
]

const pages = allPages()
const blocks = pages.flatMap(blocksOf)
const placeOf = ({ page, line }: Block) => `${page}, line ${line}`
const isShell = ({ language }: Block) => ['sh', 'bash', 'shell'].includes(language)

void t.test('every command block is run, or listed with the reason why not', async (t) => {
  const shells = blocks.filter(isShell)
  t.ok(shells.length > 40, `${shells.length} blocks`)
  for (const block of shells) {
    const entries = elsewhere.filter(
      ({ page, begins }) => page === block.page && block.text.startsWith(begins),
    )
    const toured = block.target?.startsWith('terminal-') === true && TOURS.includes(block.page)
    t.equal(entries.length + Number(toured), 1, placeOf(block))
  }
  for (const { page, begins, runBy, as, because } of elsewhere) {
    const meant = shells.filter((block) => block.page === page && block.text.startsWith(begins))
    t.equal(meant.length, 1, `${page}: there is one block that begins with ${begins}`)
    t.notSame(runBy, because, 'one of the two')
    if (runBy === undefined) continue
    const proof = read(runBy)
    const [, program] = /(?:examples\/dist\/|python\/)?([\w-]+\.(?:js|py))/.exec(begins) ?? []
    t.ok(proof.includes(page) || proof.includes(as ?? program ?? begins), `${runBy} runs ${begins}`)
  }
})

void t.test(
  'the text says where a reader types or saves a block: a fence shows only its language',
  async (t) => {
    for (const { page, line, target } of TOURS.flatMap(tourOf)) {
      const before =
        read(page)
          .split('\n')
          .slice(0, line - 1)
          .findLast((text) => text !== '') ?? ''
      t.ok(
        before.toLowerCase().includes(target.replace('terminal-', 'terminal ')),
        `${page}, line ${line}: ${target}`,
      )
    }
  },
)

void t.test('every configuration on a page passes baton check', async (t) => {
  const listener = { name: 'web', listen: '127.0.0.1:8080', service: 'web' }
  const configurations = blocks
    .filter(({ language }) => language === 'json')
    .flatMap((block) => {
      const shown = JSON.parse(block.text) as Record<string, unknown>
      if (!('listeners' in shown || 'services' in shown)) return []
      // Some configurations show only the part that they are about.
      return [{ block, config: { listeners: [listener], services: { web: {} }, ...shown } }]
    })
  t.ok(configurations.length > 5)
  for (const { block, config } of configurations) {
    const { code, err } = await batonHere('check', '--config', written(t, config))
    t.equal(code, 0, `${placeOf(block)}: ${err.join('\n')}`)
    // A warning about a program that this machine does not have.
    const missing = /cannot start "(\/[^"]+)"/
    const warnings = err.filter((line) => existsSync(missing.exec(line)?.[1] ?? '/'))
    t.same(warnings, [], `${placeOf(block)}: no other warning`)
  }

  // As a reader types it, in the folder of the largest configuration.
  const [{ config } = { config: {} }] = configurations.toSorted(
    (a, b) => b.block.text.length - a.block.text.length,
  )
  const typed = await baton(t, ['check'], { cwd: dirname(written(t, config)) })
  t.match(typed, { code: 0, out: [/^baton\.json: ok \(/], err: [] })
})

/** Written to its own folder, together with the files it names. */
function written(t: Test, config: Record<string, unknown>): string {
  const folder = temporaryFolder(t)
  for (const [, name] of JSON.stringify(config).matchAll(/"\w+File":"([^"/]+)"/g))
    writeFileSync(join(folder, name as string), 'a-secret\n', { mode: 0o600 })
  mkdirSync(join(folder, 'app'))
  const file = join(folder, 'baton.json')
  writeFileSync(file, JSON.stringify(config))
  return file
}

void t.test('every program that quotes a file matches it', async (t) => {
  const quotes = blocks.filter(({ from }) => from !== undefined)
  t.ok(quotes.length >= 10)
  for (const block of quotes)
    t.ok(read(block.from ?? '').includes(block.text), `${placeOf(block)}: ${block.from}`)
})

void t.test('every program of a guide or a README is run or compiled', async (t) => {
  const programs = blocks.filter(({ language }) => ['js', 'ts'].includes(language))
  for (const block of programs) {
    // Its fragments contain placeholders; each function has its own tests.
    if (block.page === 'packages/native-sendmsg/README.md') continue
    const written = block.target !== undefined && TOURS.includes(block.page)
    t.ok(block.from !== undefined || written, placeOf(block))
  }
})
