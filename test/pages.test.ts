import { spawnSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { dirname, join } from 'node:path'
import t from 'tap'
import { allPages, anchorsOf, filesBelow, read } from './support/markdown.ts'
import { cleanEnvironment, root } from './support/process.ts'
import { LIMIT } from './support/limits.ts'

// Statements in docs/ about the sources, checked against them.

/** The `code` spans in the first cells of the section's tables, one by one. */
function codesInFirstCells(section: string): string[] {
  return [...section.matchAll(/^\| ([^|]+) \|/gm)].flatMap(([, cell = '']) =>
    [...cell.matchAll(/`([^`]+)`/g)].map(([, code = '']) => code),
  )
}

void t.test('every link of the pages leads to a file, and to a heading of it', async (t) => {
  for (const page of allPages()) {
    for (const [, file = '', anchor] of read(page).matchAll(/\]\((?!https?:)([^)#]*)(?:#([^)]*))?\)/g)) {
      const target = file === '' ? page : join(dirname(page), file)
      if (!existsSync(join(root, target))) t.fail(`${page}: ${file}`)
      else if (anchor !== undefined && !anchorsOf(read(target)).has(anchor))
        t.fail(`${page}: ${file}#${anchor}`)
    }
  }
  t.pass('all of them')
})

void t.test('every page of docs is in the list of its folder', async (t) => {
  const lists = filesBelow('docs', 'README.md')
  t.ok(lists.length >= 5)
  for (const list of lists) {
    const folder = dirname(list)
    const pages = filesBelow(folder, '.md').filter((page) => page !== list && dirname(page) === folder)
    for (const page of pages)
      t.ok(read(list).includes(`](${page.slice(folder.length + 1)})`), `${list}: ${page}`)
  }
})

for (const [page, source, writer] of [
  ['command.md', 'the command', 'write-command-page.mjs'],
  ['configuration.md', 'the schema', 'write-configuration-page.mjs'],
] as const) {
  void t.test(`${page} is what ${source} says`, { timeout: LIMIT }, async (t) => {
    const script = [join(root, 'scripts', writer), '--check']
    const { status, stderr } = spawnSync(process.execPath, script, { env: cleanEnvironment() })
    t.equal(status, 0, stderr.toString())
  })
}

const PEERS = 'docs/reference/peers.md'

for (const page of ['docs/explanation/security.md', 'docs/internals/promises.md', PEERS]) {
  void t.test(`every test that ${page} names exists`, async (t) => {
    const named = [...read(page).matchAll(/`([\w/.-]+\.test\.ts)`: "([^"]+)"/g)]
    t.ok(named.length > 20)
    for (const [, file = '', title = ''] of named) t.ok(read(file).includes(title), `${file}: ${title}`)
  })
}

void t.test(
  'each behaviour of others is shown by a test or a finding, of the version that is named',
  async (t) => {
    const rows = [...read(PEERS).matchAll(/^\| (?!peer |---)(.+?) \| .+ \| (.+) \|$/gm)]
    t.ok(rows.length > 25, `${rows.length} rows`)
    for (const [, peer = '', proofs = ''] of rows) {
      const findings = [...proofs.matchAll(/\]\(\.\.\/\.\.\/(findings\/[\w-]+\.sh)\)/g)].map(
        ([, file = '']) => file,
      )
      t.ok(findings.length > 0 || proofs.includes('.test.ts`: "'), `${peer}: ${proofs}`)
      const shown = findings.map(read).join('\n')
      for (const [version] of findings.length > 0 ? peer.matchAll(/\d+\.\d+\.\d+/g) : [])
        t.ok(shown.includes(version), `${peer}: ${version} in ${findings.join(', ')}`)
    }
  },
)

void t.test('every log message in failures.md exists', async (t) => {
  const sources = filesBelow('packages', '.ts').filter((file) => file.includes('/src/'))
  const text = sources.map(read).join('\n')
  const section = /^## Failures\n([^]*?)\n## /m
  const [, table = ''] = section.exec(read('docs/reference/failures.md')) ?? []
  const logged = [...table.matchAll(/^\| [^|]+ \| ([^|]*) \|/gm)]
    .flatMap(([, cell = '']) => [...cell.matchAll(/`([^`]+)`/g)].map(([, code = '']) => code))
    // Not log fields; of messages with a variable end, only the constant part.
    .filter((code) => code.includes(' '))
    .map((code) => code.replace(/\.{3}$/, '').trim())
  t.ok(logged.length > 20, `${logged.length} messages`)
  for (const message of logged) t.ok(text.includes(message), message)
})

void t.test('master.md has every message of the channel, and no other', async (t) => {
  const [, section = ''] = /^## The channel\n([^]*?)^## /m.exec(read('docs/internals/master.md')) ?? []
  const [, toWorker = '', fromWorker = ''] = section.split(/^\| (?:master to worker|worker to master) \|.*$/m)
  const declared = read('packages/broker/src/ipc/messages.ts')
  const typesOf = (name: string) => {
    const [, body = ''] = new RegExp(`^export type ${name} =\\n([^]*?)\\n\\n`, 'm').exec(declared) ?? []
    return new Set([...body.matchAll(/readonly type: '(\w+)'/g)].map(([, type]) => type))
  }
  for (const [name, table] of [
    ['ToWorker', toWorker],
    ['FromWorker', fromWorker],
  ] as const) {
    t.ok(typesOf(name).size > 5)
    t.same(new Set(codesInFirstCells(table)), typesOf(name), name)
  }
})

void t.test('admin.md has every route, step, outcome and kind of change, and no other', async (t) => {
  const page = read('docs/reference/admin.md')
  const broker = (file: string) => read(`packages/broker/src/${file}`)
  const sources = ['routes', 'control-routes', 'output-routes']
    .map((name) => broker(`worker/admin/${name}.ts`))
    .join('')
  const routes = [...sources.matchAll(/app\.(get|post)(?:<\w+>)?\(\s*'([^']+)'/g)].map(
    ([, method = '', path]) => `${method.toUpperCase()} ${path}`,
  )
  t.ok(routes.length >= 11)
  t.same(
    new Set(page.match(/^\| `(?:GET|POST) \/(?=\w)[^`]+/gm)?.map((row) => row.slice(3))),
    new Set(routes),
  )

  const tables = new Map(
    [...page.matchAll(/^\| (\w+) \| \|\n\| --- \| --- \|\n((?:\|.*\n)+)/gm)].map(([, head, rows = '']) => [
      head,
      new Set(codesInFirstCells(rows)),
    ]),
  )
  const list = (text: string) => new Set([...text.matchAll(/'(\w+)'/g)].map(([, each]) => each))
  const [, steps = ''] = /STEPS = \[([^\]]*)\]/.exec(broker('api/flight-record.ts')) ?? []
  t.same(tables.get('step'), list(steps))
  const [, kinds = ''] = /type ChangeKind =([^]*?)\n\n/.exec(broker('api/events.ts')) ?? []
  t.same(tables.get('kind'), list(kinds))
  const [, query = ''] =
    /const query = z\.strictObject\(\{([^]*?)\n\}\)/.exec(broker('worker/admin/connection-query.ts')) ?? []
  const parameters = [...query.matchAll(/^ {2}(\w+):/gm)].map(([, name]) => name)
  t.same(new Set([...(tables.get('parameter') ?? [])].map((cell) => cell.split('=')[0])), new Set(parameters))
  const [, outcomes = ''] = /^\| `outcome` \|(.*)\|$/m.exec(page) ?? []
  const [, counted = ''] = /OUTCOMES = \[([^\]]*)\]/.exec(broker('metrics/labels.ts')) ?? []
  t.same(new Set(outcomes.match(/(?<=`)\w+(?=`)/g)), new Set([...list(counted), 'moved']))
  const [, rates = ''] = /interface ServiceRates \{([^]*?)\n\}/.exec(broker('api/events.ts')) ?? []
  const members = [...rates.matchAll(/^ {2}readonly (\w+): /gm)].map(([, name]) => name)
  t.same(tables.get('member'), new Set(members))
})

void t.test("master.md has every command of the operator's protocol, and no other", async (t) => {
  const [, section = ''] = /^## The operator's protocol\n([^]*)/m.exec(read('docs/internals/master.md')) ?? []
  const named = codesInFirstCells(section).map((code) => code.split(' ')[0])
  const source = read('packages/broker/src/master/operator/commands.ts')
  const [, list = ''] = /!\[([^\]]*)\]\.includes\(command\)/.exec(source) ?? []
  const obeyed = [...`${[...source.matchAll(/case '\w+'/g)].join(' ')} ${list}`.matchAll(/'(\w+)'/g)]
  t.same(new Set(named), new Set(obeyed.map(([, command]) => command)))
})
