import { spawnSync } from 'node:child_process'
import {
  chmodSync,
  chownSync,
  lstatSync,
  mkdirSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import http from 'node:http'
import { createConnection } from 'node:net'
import { dirname, join } from 'node:path'
import t from 'tap'
import { startBackend } from './support/backend.ts'
import { batonCommand, Broker } from './support/broker.ts'
import { eventually } from './support/eventually.ts'
import { LIMIT } from './support/limits.ts'
import { masterStatus, reload } from './support/operator.ts'
import { cleanEnvironment, Program, temporaryFolder } from './support/process.ts'
import { signal } from './support/signal.ts'

// A temporary-folder cleaner removes files that a running broker needs: the broker recreates them, and they work.

const CREATED = 'a file that the broker needs was removed or replaced; created it again'
const CHANGED = 'owner or mode of a file that the broker needs was changed; restored them'
const FAILED = 'a file that the broker needs is gone and cannot be created; trying again every second'

/** Sends one request over a Unix socket; resolves with the pid of the backend that answers. */
function ask(socketPath: string, path = '/'): Promise<{ status: number; pid: number; body: string }> {
  return new Promise((resolve, reject) => {
    const request = http.get({ socketPath, path, agent: false }, (response) => {
      let body = ''
      response.setEncoding('utf8').on('data', (chunk: string) => (body += chunk))
      response.on('end', () =>
        resolve({ status: response.statusCode ?? 0, pid: Number(response.headers['x-pid']), body }),
      )
    })
    request.on('error', reject)
  })
}

function isSocket(path: string): boolean {
  return lstatSync(path, { throwIfNoEntry: false })?.isSocket() === true
}

void t.test('one broker loses its files one by one', { timeout: LIMIT }, async (t) => {
  const folder = temporaryFolder(t)
  const run = join(folder, 'run')
  const [web, relayed, admin] = ['web', 'relayed', 'admin'].map((name) =>
    join(folder, name, `${name}.sock`),
  ) as [string, string, string]
  for (const path of [web, relayed, admin]) mkdirSync(dirname(path), { mode: 0o750 })
  const configFile = join(folder, 'baton.json')
  const patient = { holdTimeout: '30m', ackDeadline: '10m', tokenTtl: '20m' }
  writeFileSync(
    configFile,
    JSON.stringify({
      runtimeDir: run,
      // The worker is stopped for a moment, which may take long on a busy machine.
      workerTimeout: '1h',
      admin: { listen: `unix:${admin}` },
      listeners: [
        { name: 'web', listen: `unix:${web}`, protocol: 'http', service: 'web' },
        { name: 'relayed', listen: `unix:${relayed}`, protocol: 'http', service: 'relayed' },
      ],
      services: { web: patient, relayed: { ...patient, handoff: 'off' } },
    }),
  )
  const program = new Program(t, process.execPath, [batonCommand, 'start', '--config', configFile], {
    group: true,
  })
  const broker = new Broker(program, folder, configFile, await program.message('accepting connections'))
  const told = (msg: string, about: string) =>
    program.messages().filter((each) => each['msg'] === msg && JSON.stringify(each).includes(about)).length
  /** Removes it, and waits until the broker logs that it was recreated. */
  const loses = async (path: string, remove = () => rmSync(path, { recursive: true })) => {
    const before = told(CREATED, `"${path}"`)
    remove()
    await eventually(() => told(CREATED, `"${path}"`) > before, `${path} is created again`)
  }
  const control = join(run, 'control.sock')
  const master = join(run, 'master.sock')
  const lock = join(run, 'lock')
  const first = await startBackend(t, broker)

  await t.test('control.sock: backends register, and keep their mode', async (t) => {
    await loses(control)
    t.equal(lstatSync(control).mode & 0o777, 0o600)
    const second = await startBackend(t, broker)
    await eventually(async () => (await ask(web)).pid === second.pid, 'the second one is given clients')
    second.kill('SIGKILL')
    await second.exited
  })

  await t.test('master.sock: the operator is answered', async (t) => {
    await loses(master)
    t.equal((await masterStatus(t, broker)).master.pid, program.pid)
  })

  await t.test('the socket of a listener: clients in the queue of the old one are served', async (t) => {
    const { workers } = await masterStatus(t, broker)
    const worker = workers[0]?.pid
    signal(worker, 'SIGSTOP')
    const early = createConnection(web)
    await new Promise<void>((resolve) => early.once('connect', () => resolve()))
    await loses(web)
    early.write('GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n')
    signal(worker, 'SIGCONT')
    let answer = ''
    for await (const chunk of early.setEncoding('utf8')) answer += String(chunk)
    t.match(answer, /^HTTP\/1\.1 200/)
    t.equal((await ask(web)).pid, first.pid)
    t.equal(lstatSync(web).mode & 0o777, 0o666)
  })

  await t.test('the folder of a listener, which is recreated as it was', async (t) => {
    await loses(web, () => rmSync(dirname(web), { recursive: true }))
    t.equal(statSync(dirname(web)).mode & 0o777, 0o750)
    t.equal((await ask(web)).pid, first.pid)
  })

  await t.test('the socket of the admin server, twice', async (t) => {
    for (let time = 0; time < 2; time++) {
      await loses(admin)
      t.equal(lstatSync(admin).mode & 0o777, 0o600)
      t.equal((await ask(admin, '/healthz')).status, 200)
    }
  })

  await t.test('the lock: there is still one broker', async (t) => {
    signal(program.pid, 'SIGSTOP')
    rmSync(lock)
    const second = spawnSync(process.execPath, [batonCommand, 'start', '--config', configFile], {
      encoding: 'utf8',
      env: cleanEnvironment(),
    })
    signal(program.pid, 'SIGCONT')
    t.match(
      second,
      { status: 1, stderr: /another broker serves this runtime folder/ },
      'before it is recreated',
    )
    await eventually(() => told(CREATED, lock) > 0, 'it is recreated')
    t.equal(spawnSync('flock', ['--nonblock', lock, 'true']).status, 1, 'and locked')
    t.ok(isSocket(control) && isSocket(master), 'and its sockets are left alone')
    t.equal((await ask(web)).pid, first.pid)
  })

  await t.test('runtimeDir, with everything in it', async (t) => {
    const relay = await startBackend(t, broker, 'http-backend.mjs', { service: 'relayed' })
    t.equal((await ask(relayed)).pid, relay.pid)
    // In one step: the broker creates its files again as soon as one is gone, and the folder that was to be removed was not empty.
    await loses(control, () => renameSync(run, `${run}.gone`))
    rmSync(`${run}.gone`, { recursive: true })
    t.equal(statSync(run).mode & 0o777, 0o700)
    for (const path of [control, master, lock]) await eventually(() => isSocket(path) || path === lock, path)
    // Held until the backend has recreated its endpoint.
    t.equal((await ask(relayed)).pid, relay.pid, 'relays continue')
    t.equal((await masterStatus(t, broker)).master.pid, program.pid)
  })

  // A reload used to succeed although no backend could register any longer, or no command could be sent.
  await t.test('owner and mode of what is in runtimeDir', async (t) => {
    const isRoot = process.getuid?.() === 0
    for (const [path, mode] of [
      [control, 0o600],
      [master, 0o600],
      [lock, 0o600],
      [run, 0o700],
    ] as const) {
      for (const change of [0o777, 0, 'owner'] as const) {
        if (change === 'owner' && !isRoot) continue
        const before = told(CHANGED, `"${path}"`)
        if (change === 'owner') chownSync(path, 65_534, 65_534)
        else chmodSync(path, change)
        await eventually(() => told(CHANGED, `"${path}"`) > before, `${path} is restored after ${change}`)
        const { uid, mode: found } = statSync(path)
        t.match({ uid, mode: found & 0o777 }, { uid: process.getuid?.(), mode }, `${path} ${change}`)
      }
    }
    const late = await startBackend(t, broker)
    await eventually(async () => (await ask(web)).pid === late.pid, 'backends register')
    late.kill('SIGKILL')
    await late.exited
  })

  await t.test('files that cannot be created: a reload reports it, until they can', async (t) => {
    rmSync(dirname(web), { recursive: true })
    writeFileSync(dirname(web), '')
    await eventually(() => told(FAILED, web) > 0, 'it is logged')
    t.match(await reload(t, broker), {
      success: false,
      log: [new RegExp(`^a file that the broker needs is gone and cannot be created again: .*${web}`)],
    })
    await loses(web, () => rmSync(dirname(web)))
    t.equal(told(FAILED, web), 1, 'once')
    t.equal((await ask(web)).pid, first.pid)
  })

  await t.test('another process has locked the folder: its names are left alone', async (t) => {
    signal(program.pid, 'SIGSTOP')
    rmSync(lock)
    const other = new Program(t, 'flock', ['--exclusive', lock, 'sh', '-c', 'echo locked; read _'])
    await other.line((line) => line === 'locked', 'that it is locked')
    rmSync(control)
    signal(program.pid, 'SIGCONT')
    await eventually(() => told(FAILED, 'another broker serves') > 0, 'it is logged')
    t.match(await reload(t, broker), { success: false, log: [/another broker serves this runtime folder/] })
    t.notOk(isSocket(control))
    await loses(control, () => other.say(''))
  })

  await t.test('after a reload, too: other files at these paths are kept', async (t) => {
    t.match(await reload(t, broker), { success: true })
    // Stopped, so that it recreates nothing between the removal and the replacement.
    const replaces = (path: string, by: () => void) =>
      loses(path, () => {
        signal(program.pid, 'SIGSTOP')
        rmSync(path)
        by()
        signal(program.pid, 'SIGCONT')
      })
    await replaces(control, () => writeFileSync(control, 'precious'))
    t.ok(isSocket(control))
    t.equal(statSync(`${control}.replaced`).size, 8)
    // The second file replaced the first, or could not be moved away, and then no command could be sent any longer.
    for (const path of [control, lock]) {
      for (const name of ['one', 'other'])
        await replaces(path, () => mkdirSync(join(path, name), { recursive: true }))
    }
    t.equal(statSync(`${control}.replaced`).size, 8)
    t.ok(statSync(`${control}.replaced-3/other`).isDirectory())
    t.ok(statSync(`${lock}.replaced-2/other`).isDirectory())
    await loses(web)
    t.equal((await ask(web)).pid, first.pid)
    t.match((await ask(admin, '/metrics')).body, /^baton_files_restored_total [1-9]\d+$/m)
  })

  await t.test('a stop removes the files that it has created', async (t) => {
    program.kill('SIGTERM')
    t.equal((await program.exited).code, 0)
    for (const path of [control, master, web, admin]) t.notOk(isSocket(path), path)
  })
})
