import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { root } from './support/process.ts'

const page = readFileSync(join(root, 'docs/reference/errors.md'), 'utf8')

/** First cells of the tables below a heading, without backticks. */
function listed(heading: string): string[] {
  const from = page.indexOf(`\n## ${heading}`)
  const to = page.indexOf('\n## ', from + 1)
  const section = page.slice(from, to === -1 ? undefined : to)
  return [...section.matchAll(/^\| `([A-Za-z_]+)`/gm)].map(([, code]) => code as string)
}

function source(path: string): string {
  return readFileSync(join(root, path), 'utf8')
}

function sorted(values: Iterable<string>): string[] {
  return [...new Set(values)].toSorted()
}

void t.test('every error code in the sources is on the page, and no other', async (t) => {
  const code = /BATON_(?:ERR|WARN)_[A-Z_]+/g
  const found = ['native-sendmsg', 'backend-sdk', 'broker'].flatMap((name) => {
    const folder = join(root, 'packages', name, 'src')
    return readdirSync(folder, { recursive: true, encoding: 'utf8' })
      .filter((path) => path.endsWith('.ts'))
      .flatMap((path) => readFileSync(join(folder, path), 'utf8').match(code) ?? [])
  })
  t.ok(found.length > 40)
  t.same(sorted(page.match(/^\| `BATON_\w+`/gm)?.map((cell) => cell.slice(3, -1)) ?? []), sorted(found))
})

void t.test('each code has its cause, what Baton did, and what to do', async (t) => {
  const tables = page.match(/^\| code \|.*\n(?:\|.*\n)+/gm) ?? []
  t.ok(tables.length >= 5)
  for (const table of tables) {
    const [head = '', , ...rows] = table
      .trim()
      .split('\n')
      .map((row) => row.split(' | ').map((cell) => cell.replaceAll('|', '').trim()))
    for (const column of ['cause', 'what Baton did', 'what to do']) {
      const at = head.indexOf(column)
      for (const row of rows) t.ok(row[at], `${row[0]}: ${column}`)
    }
  }
})

void t.test('every failure and policy reason is on the page, with its decision, and no other', async (t) => {
  const labels = source('packages/broker/src/metrics/labels.ts')
  const reasons = [...labels.matchAll(/^ {2}'([A-Z]\w+)',$/gm)].map(([, reason]) => reason as string)
  t.same(sorted(listed('Failures of a handoff')), sorted(reasons))

  const failures = source('packages/broker/src/worker/connection/failure.ts')
  for (const [, name = '', counts = ''] of page.matchAll(
    /^\| `([A-Z][A-Za-z]+)` \| [^|]+ \| (yes|no)[^|]* \| [^|]+ \|$/gm,
  )) {
    const decision = new RegExp(
      `^ {2}${name}: (fault|refusal|\\{ countsAgainstBackend: (?:true|false))`,
      'm',
    ).exec(failures)?.[1]
    t.equal(/fault|true/.test(decision ?? '') ? 'yes' : 'no', counts, name)
  }
})

void t.test('every refusal is on the page, and no other', async (t) => {
  const admission = source('packages/broker/src/worker/registry/admission.ts')
  const union = admission.slice(admission.indexOf('readonly code:'), admission.indexOf('readonly message:'))
  t.same(
    sorted(listed('Refusals')),
    sorted([...union.matchAll(/'(\w+)'/g)].map(([, code]) => code as string)),
  )
})

void t.test(
  'the protocol page has the same refusals, with the correct ones marked as temporary',
  async (t) => {
    const section =
      /\n### Refusals\n([^]*?)\n### /.exec(
        readFileSync(join(root, 'docs/reference/protocol.md'), 'utf8'),
      )?.[1] ?? ''
    const rows = [...section.matchAll(/^\| `(\w+)` \| (true|false) \|/gm)]
    t.same(sorted(rows.map(([, code = '']) => code)), sorted(listed('Refusals')))
    const sources =
      source('packages/broker/src/worker/registry/admission.ts') +
      source('packages/broker/src/worker/registry/registration-limits.ts')
    for (const [, code = '', retry] of rows) {
      const found = [...sources.matchAll(new RegExp(`code: '${code}',[^]*?retry: (true|false)`, 'g'))]
      t.same(new Set(found.map(([, flag]) => flag)), new Set([retry]), code)
    }
  },
)
