import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { batonCommand } from './support/broker.ts'
import { baton } from './support/command.ts'
import { eventually } from './support/eventually.ts'
import { LIMIT } from './support/limits.ts'
import { temporaryFolder } from './support/process.ts'
import { PseudoTerminal } from './support/pseudo-terminal.ts'

// `baton init`, in the folder of an app.

interface Written {
  readonly $schema?: string
  readonly listeners: readonly unknown[]
  readonly services: { readonly web: { readonly command: readonly string[] } }
}

function app(t: Test, files: Readonly<Record<string, string>>): string {
  const folder = temporaryFolder(t)
  for (const [name, text] of Object.entries(files)) {
    mkdirSync(join(folder, name, '..'), { recursive: true })
    writeFileSync(join(folder, name), text)
  }
  return folder
}

const read = (folder: string) => JSON.parse(readFileSync(join(folder, 'baton.json'), 'utf8')) as Written

void t.test('an app that has the lines already is not shown them', { timeout: LIMIT }, async (t) => {
  const cwd = app(t, {
    'package.json': '{ "type": "module", "scripts": { "start": "node app.js" } }',
    'app.js': "import { createBackend } from '@baton/backend-sdk'",
    'node_modules/@baton/backend-sdk/package.json': '{}',
  })
  const { code, out } = await baton(t, ['init', '--yes'], { cwd })
  t.equal(code, 0)
  t.same(out.slice(1), ['', 'Then:', '', '  npx baton start'])
})

void t.test('an app with a start script', { timeout: LIMIT }, async (t) => {
  const cwd = app(t, {
    'package.json': '{ "type": "module", "scripts": { "start": "node --enable-source-maps src/main.js" } }',
    'node_modules/@baton/broker/baton.schema.json': '{}',
  })
  const { code, out, err } = await baton(t, ['init', '--yes', '--listen', '127.0.0.1:3000'], { cwd })
  t.same({ code, err }, { code: 0, err: [] })
  t.same(read(cwd), {
    $schema: './node_modules/@baton/broker/baton.schema.json',
    listeners: [{ name: 'web', listen: '127.0.0.1:3000', service: 'web' }],
    services: { web: { command: ['node', '--enable-source-maps', 'src/main.js'], instances: 2 } },
  })
  t.match(
    out[0],
    /^wrote baton\.json: two processes of "node --enable-source-maps src\/main\.js", service web, clients at http:\/\/127\.0\.0\.1:3000\/$/,
  )
  for (const line of [
    "  import { createBackend } from '@baton/backend-sdk'",
    '  backend.attach(server)',
    '  await backend.ready()',
    "  process.once('SIGTERM', () => void backend.drain())",
  ])
    t.ok(out.includes(line), line)
  t.equal(out.at(-1), '  npx baton start')
  t.match(await baton(t, ['check'], { cwd }), { code: 0, out: ['baton.json: ok (1 listener, 1 service)'] })

  const before = readFileSync(join(cwd, 'baton.json'))
  t.same(await baton(t, ['init', '--yes'], { cwd }), {
    code: 1,
    out: [],
    err: ['baton: baton.json is there already; --force replaces it'],
  })
  t.same(readFileSync(join(cwd, 'baton.json')), before)
  t.match(await baton(t, ['init', '--yes', '--force'], { cwd }), { code: 0 })
  t.match(read(cwd).listeners, [{ listen: '127.0.0.1:8080' }])
})

void t.test('other apps', { timeout: LIMIT }, async (t) => {
  const cases: readonly [files: Record<string, string>, command: string[]][] = [
    [{ 'package.json': '{ "scripts": { "start": "next start" } }' }, ['npm', 'start']],
    [{ 'package.json': '{ "scripts": { "start": "PORT=1 node a.js" } }' }, ['npm', 'start']],
    [{ 'package.json': '{ "main": "lib/app.js" }', 'lib/app.js': '' }, ['node', 'lib/app.js']],
    [{ 'package.json': '{ "main": "gone.js" }', 'index.js': '' }, ['node', 'index.js']],
  ]
  for (const [files, command] of cases) {
    const cwd = app(t, files)
    // Without a terminal it asks nothing.
    const { code, out } = await baton(t, ['init'], { cwd })
    t.equal(code, 0)
    t.same(read(cwd).services.web.command, command)
    t.ok(out.includes("  const { createBackend } = require('@baton/backend-sdk')"))
    t.notOk(Object.hasOwn(read(cwd), '$schema'), 'the packages are not here')
  }
  const empty = app(t, {})
  const { out } = await baton(t, ['init', '--yes'], { cwd: empty })
  t.ok(out.includes('nothing says how the app is started: check "command"'))
})

void t.test('in a terminal it asks, and offers what it has found', { timeout: LIMIT }, async (t) => {
  const cwd = app(t, { 'package.json': '{ "main": "lib/app.js" }', 'lib/app.js': '' })
  const terminal = new PseudoTerminal(t, `cd ${cwd} && ${process.execPath} ${batonCommand} init`)
  await terminal.shows(/Command that starts the app \(node lib\/app\.js\): /)
  t.notOk(existsSync(join(cwd, 'baton.json')), 'nothing is written before the answers')
  terminal.type('node  --enable-source-maps lib/app.js\r')
  await terminal.shows(/Address for clients \(127\.0\.0\.1:8080\): /)
  terminal.type('example.com:80\r')
  // The reason, and the same question again.
  await terminal.shows(/is not an IP address[^]*Address for clients \(127\.0\.0\.1:8080\): /)
  terminal.type('127.0.0.1:3456\r')
  t.match(
    await terminal.end(),
    /wrote baton\.json: two processes of "node --enable-source-maps lib\/app\.js"/,
  )
  t.match(read(cwd), {
    listeners: [{ listen: '127.0.0.1:3456' }],
    services: { web: { command: ['node', '--enable-source-maps', 'lib/app.js'] } },
  })

  const again = new PseudoTerminal(t, `cd ${cwd} && ${process.execPath} ${batonCommand} init --force`)
  await again.shows(/Command that starts the app \(node lib\/app\.js\): /)
  again.type('\r')
  await again.shows(/Address for clients \(127\.0\.0\.1:8080\): /)
  again.type('\r')
  await again.end()
  t.match(read(cwd), {
    listeners: [{ listen: '127.0.0.1:8080' }],
    services: { web: { command: ['node', 'lib/app.js'] } },
  })
})

void t.test('a terminal that is closed at the questions leaves nothing', { timeout: LIMIT }, async (t) => {
  const cwd = app(t, { 'package.json': '{ "main": "lib/app.js" }', 'lib/app.js': '' })
  const ended = join(cwd, 'ended')
  const command = `cd ${cwd}; trap '' HUP; (trap - HUP; exec ${process.execPath} ${batonCommand} init); echo $? > ${ended}`
  const terminal = new PseudoTerminal(t, command)
  await terminal.shows(/Command that starts the app/)
  await terminal.hangUp()
  await eventually(() => existsSync(ended), 'it has ended')
  t.notOk(existsSync(join(cwd, 'baton.json')))
})

void t.test('what is refused writes nothing', { timeout: LIMIT }, async (t) => {
  const cwd = app(t, { 'package.json': '{' })
  t.match(await baton(t, ['init'], { cwd }), { code: 1, out: [], err: [/package\.json is not JSON$/] })
  const other = app(t, {})
  t.match(await baton(t, ['init', '--listen', 'example.com:80'], { cwd: other }), { code: 2, out: [] })
  for (const folder of [cwd, other]) t.notOk(existsSync(join(folder, 'baton.json')))
})
