import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { readEnvFile } from '../packages/broker/dist/config/env-file.js'
import { batonCommand, Broker, startBroker } from './support/broker.ts'
import { Client } from './support/client.ts'
import { batonHere } from './support/command.ts'
import { eventually } from './support/eventually.ts'
import { freePort } from './support/free-port.ts'
import { LIMIT } from './support/limits.ts'
import { masterStatus, onlyWorker, reload } from './support/operator.ts'
import { Program, root, temporaryFolder } from './support/process.ts'
import { signal } from './support/signal.ts'
import { typed } from './support/typed.ts'

// Variables from a file for each deploy.

const SECRET = 'hunter2-and-nothing-else'
const folder = temporaryFolder(t)
const write = (name: string, text: string) => writeFileSync(join(folder, name), text)
write('.env.production', `# of the app\nexport SECRET="${SECRET}"\nBATON_VERSION=9.1\n`)
write('other.env', 'SECRET=staging\n')
let broker = await startBroker(t, {
  config: {
    admin: { listen: `127.0.0.1:${await freePort()}` },
    services: {
      web: {
        command: [process.execPath, join(root, 'test/programs/leaking-backend.mjs')],
        cwd: folder,
        minHealthy: '1ms',
        env: { SECRET: 'configured', BATON_VERSION: '1.0' },
        envFiles: { staging: join(folder, 'other.env'), gone: 'gone.env' },
      },
    },
    drainDeadline: '10m',
  },
})
const file = broker.configFile
await broker.backends(1)
const baton = (...args: string[]) => batonHere(...args, '--config', file)

async function seen(t: Test): Promise<string> {
  const client = await Client.open(t, { host: '127.0.0.1', port: broker.port() })
  const { secret } = JSON.parse((await client.get()).body) as { secret: string }
  client.socket.destroy()
  return secret
}

/** Not of a test's: it outlives that. */
const startAgain = () =>
  new Program(t, process.execPath, [batonCommand, 'start', '--config', file], { group: true })

const instance = async (t: Test) => (await masterStatus(t, broker)).managed[0]

/** Kills its process, and waits for the next one. There may be no look at the broker between the two. */
async function restarted(t: Test): Promise<void> {
  const killed = (await instance(t))?.pid
  signal(killed, 'SIGKILL')
  await broker.until(({ services }) => {
    const backends = services[0]?.backends ?? []
    return backends.length === 1 && backends.every(({ pid, state }) => pid !== killed && state === 'ready')
  }, 'another process is ready')
}

void t.test('an environment is in force until the next deploy', { timeout: LIMIT }, async (t) => {
  t.equal(await seen(t), 'configured')
  for (const words of typed('docs/how-to/deploy.md', 'baton deploy web --env production')) {
    t.equal(words.shift(), 'baton')
    t.match(await baton(...words), { code: 0 })
  }
  t.equal(await seen(t), SECRET)
  t.match(await instance(t), { environment: 'production', version: '9.1', generation: 2 })

  await restarted(t)
  t.equal(await seen(t), SECRET, 'a restart')
  // From now on the file says something else.
  write('.env.production', 'SECRET=later\n')
  t.ok((await reload(t, broker)).success)
  t.match(await baton('scale', 'web', '2'), { code: 0 })
  t.same(
    new Set([await seen(t), await seen(t), await seen(t)]),
    new Set([SECRET]),
    'a reload, and another instance',
  )
  t.match(await baton('scale', 'web', '1'), { code: 0 })
  broker.program.kill('SIGKILL')
  await broker.until((status) => status.broker.master === null, 'the worker has noticed')
  const earlier = broker.program
  const next = startAgain()
  broker = new Broker(next, broker.folder, file, await next.message('accepting connections'))
  await onlyWorker(t, broker)
  await restarted(t)
  t.equal(await seen(t), SECRET, 'a restart by the next master')
  await eventually(async () => (await instance(t))?.pid !== null, 'it runs')
  const warning = next.messages().filter(({ msg }) => /changed; running instances keep/.test(String(msg)))
  t.same(warning, [], 'the configuration has not changed')

  const shown = [
    ...(await baton('status', '--json')).out,
    JSON.stringify(await masterStatus(t, broker)),
    await broker.metrics(),
    ...[earlier, next].flatMap((program) => program.messages().map((message) => JSON.stringify(message))),
  ]
  t.notMatch(shown.join('\n'), SECRET)
  t.match(await baton('deploy', 'web', '--env', 'staging'), { code: 0 })
  t.equal(await seen(t), 'staging')
  t.match(await baton('deploy', 'web'), { code: 0 })
  t.equal(await seen(t), 'configured')
  t.match(await instance(t), { version: '1.0' })
  t.notOk(Object.hasOwn((await instance(t)) ?? {}, 'environment'))
})

void t.test('what is refused changes nothing', { timeout: LIMIT }, async (t) => {
  const before = await instance(t)
  write('.env.bad', `GOOD=1\n\n${SECRET}\n`)
  write('.env.open', `GOOD=1\nBAD="${SECRET}\nand on`)
  const cases: readonly [name: string, problem: RegExp][] = [
    ['nothing', /\/\.env\.nothing: no such file; envFiles of web has: staging, gone/],
    ['gone', /\/gone\.env: no such file/],
    ['bad', /\/\.env\.bad: line 3: expected NAME=value, or a comment/],
    ['open', /\/\.env\.open: line 2: the quote is not closed/],
    ['../x', /"\.\.\/x" is no name of an environment/],
  ]
  for (const [name, problem] of cases) {
    const { code, out, err } = await baton('deploy', 'web', '--env', name)
    t.match({ code, out, err }, { code: 2, out: [], err: [problem] }, name)
    t.equal(err.length, 1)
    t.match(err[0], /\(BATON_ERR_ENV_FILE\)$/)
    t.notMatch(err[0], SECRET)
  }
  t.match(await baton('deploy', 'web', '--env', 'production', '--abort'), { code: 2 })
  t.same(await instance(t), before)
})

void t.test('lines of a file', async (t) => {
  const read = (text: string) => {
    write('lines', text)
    const result = readEnvFile(join(folder, 'lines'))
    return result.ok ? { ...result.variables } : result.problem.slice(`${join(folder, 'lines')}: `.length)
  }
  t.same(read('A=1\r\nB = two words # comment\n  export C=\'x#y\'\nD="a\nb" # c\nE=\nF=`"q"`\n'), {
    A: '1',
    B: 'two words',
    C: 'x#y',
    D: 'a\nb',
    E: '',
    F: '"q"',
  })
  t.same(read(''), {})
  t.equal(read('=1'), 'line 1: expected NAME=value, or a comment')
  t.equal(read('A=1\nB C=2'), 'line 2: expected NAME=value, or a comment')
  t.equal(read('A="1" 2'), 'line 1: expected nothing behind the quote')
  t.equal(read('A=\0'), 'line 1: contains a NUL byte')
  t.match(read('A='.padEnd(70_000, 'x')), /at most 65536/)
  t.match(readEnvFile(folder), { ok: false, problem: /is not a file$/ })
})
