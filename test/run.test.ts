import { appendFileSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { AppRun, NOTHING_LEFT } from './support/app-run.ts'
import { batonCommand } from './support/broker.ts'
import { Client } from './support/client.ts'
import { eventually } from './support/eventually.ts'
import { freePort } from './support/free-port.ts'
import { LIMIT } from './support/limits.ts'
import { Program, temporaryFolder } from './support/process.ts'
import { exists, signal } from './support/signal.ts'

// How `baton run` ends. How it serves is in test/slow/apps.test.ts; slower cases are in test/slow/run.test.ts.

/** Keeps connections open for longer than a stop may take. */
function app(t: Test, port: number): string[] {
  const file = join(temporaryFolder(t), 'app.mjs')
  writeFileSync(
    file,
    `import http from 'node:http'
    const server = http.createServer((_, response) => response.end('hello'))
    server.keepAliveTimeout = server.headersTimeout = 600_000
    server.listen(${port})`,
  )
  return [process.execPath, file]
}

void t.test(
  'a command that cannot be started ends baton run at once: a shell’s exit code, one line, nothing left',
  { timeout: LIMIT },
  async (t) => {
    const file = join(temporaryFolder(t), 'app.js')
    writeFileSync(file, '')
    const missing = new AppRun(t, { command: ['no-such-program', 'x'] })
    t.same(await missing.ended([]), { ...NOTHING_LEFT, code: 127 })
    t.same(missing.program.lines, [
      'baton: cannot start "no-such-program": it is not in PATH (ENOENT) (BATON_ERR_NOT_STARTABLE)',
    ])
    const denied = new AppRun(t, { command: [file] })
    t.same(await denied.ended([]), { ...NOTHING_LEFT, code: 126 })
    t.equal(denied.program.lines.length, 1)
    t.match(
      denied.program.lines[0],
      /^baton: cannot start ".*app\.js": it is not executable.*\(EACCES\) \(BATON_ERR_NOT_STARTABLE\)$/,
    )
  },
)

void t.test('an unusable temporary folder is one line', { timeout: LIMIT }, async (t) => {
  const env = { TMPDIR: '/dev/null', TMP: undefined, TEMP: undefined }
  const run = new Program(t, process.execPath, [batonCommand, 'run', '--', 'node'], { env })
  t.match(await run.exited, { code: 1 })
  t.same(run.lines, [
    'baton: the temporary folder cannot be used: TMPDIR=/dev/null is not a folder (ENOTDIR); set TMPDIR to another folder (BATON_ERR_TEMPORARY_FOLDER)',
  ])
})

void t.test(
  '--config takes settings of the broker and of the app from a file; the command line overrides them',
  { timeout: LIMIT },
  async (t) => {
    const folder = temporaryFolder(t)
    const file = join(folder, 'settings.json')
    const port = await freePort()
    const script = join(folder, 'app.mjs')
    writeFileSync(
      script,
      `import http from 'node:http'
      const { GREETING, BATON_DRAIN_DEADLINE } = process.env
      http.createServer((_, response) => response.end(GREETING + ' ' + BATON_DRAIN_DEADLINE)).listen(${port})`,
    )
    const listener = { name: 'public', listen: '127.0.0.1:1', protocol: 'http', service: 'web' }
    const app = {
      instances: 2,
      drainDeadline: '2m',
      cwd: '/',
      env: { GREETING: 'hello' },
      envFiles: { staging: 'staging.env' },
    }
    const token = join(folder, 'token')
    writeFileSync(token, 'a-token-of-the-file\n', { mode: 0o600 })
    const admin = { listen: `unix:${join(folder, 'admin.sock')}`, tokenFile: 'token' }
    writeFileSync(
      file,
      JSON.stringify({ drainDeadline: '1m', admin, listeners: [listener], services: { web: {}, app } }),
    )
    const start = async (count: number, ...options: string[]) => {
      const run = await new AppRun(t, {
        command: [process.execPath, script],
        options: ['--config', file, ...options],
        cwd: folder,
      }).serving(count)
      const client = await Client.open(t, { host: '127.0.0.1', port })
      const { body } = await client.get()
      client.socket.destroy()
      return { run, body }
    }
    const { run, body } = await start(2)
    t.equal(body, 'hello 120000')
    const warning = `${file}: `
    t.same(run.program.lines.filter((line) => line.startsWith(warning)).toSorted(), [
      `${file}: listeners: warning: has no effect: the app's listen(port), or --listen, says where to listen`,
      `${file}: services.app.cwd: warning: has no effect: the app runs in the working directory`,
      `${file}: services.web: warning: has no effect: the app's service is "app"`,
    ])
    const config = JSON.parse(readFileSync(await run.configFile(), 'utf8')) as Record<string, unknown>
    t.match(config, {
      drainDeadline: '1m',
      admin: { ...admin, tokenFile: token },
      services: { app: { cwd: folder, envFiles: { staging: join(folder, 'staging.env') } } },
    })
    const status = new Program(t, process.execPath, [
      batonCommand,
      'status',
      '--json',
      '--config',
      await run.configFile(),
    ])
    t.match(await status.exited, { code: 0 })
    t.match(JSON.parse(status.lines.join('\n')), { services: [{ name: 'app', backends: { length: 2 } }] })
    t.same(await run.end('SIGTERM'), NOTHING_LEFT)

    const { run: other, body: said } = await start(1, '-i', '1', '--drain-deadline', '5s')
    t.equal(said, 'hello 5000')
    t.same(await other.end('SIGTERM'), NOTHING_LEFT)
    t.equal(other.program.lines.filter((line) => line.startsWith('backend registered ')).length, 1)
  },
)

void t.test(
  '--config with a file that is wrong says where, starts nothing, and leaves nothing',
  { timeout: LIMIT },
  async (t) => {
    const file = join(temporaryFolder(t), 'settings.json')
    const cases: [string, string][] = [
      ['{"services":{"app":{"ackDeadline":"soon"}}}', `${file}: services.app.ackDeadline: `],
      ['{"services":{"app":{"env":"A=1"}}}', `${file}: services.app.env: must be an object`],
      ['{"recordr":1}', `${file}: recordr: `],
      ['{"drainDeadline":', `${file}: line 1, column 18: `],
    ]
    for (const [content, message] of cases) {
      writeFileSync(file, content)
      const run = new AppRun(t, { command: [process.execPath, '-e', '0'], options: ['--config', file] })
      t.same(await run.ended([]), { ...NOTHING_LEFT, code: 1 }, content)
      const [line = ''] = run.program.lines
      t.equal(line.slice(0, message.length), message)
    }
  },
)

void t.test(
  'an app that exits five times in a row ends baton run with exit code 1 and the last lines',
  { timeout: LIMIT },
  async (t) => {
    const run = new AppRun(t, { command: ['sh', '-c', 'echo typo; exit 3'] })
    t.same(await run.ended([]), { ...NOTHING_LEFT, code: 1 })
    const { lines } = run.program
    t.equal(
      lines.filter((line) => line.startsWith('app.1 | warning: backend process ended code=3')).length,
      5,
    )
    const from = lines.findIndex((line) => line.startsWith('baton: '))
    t.match(
      lines[from],
      /ended 5 times in a row without having listened on a port \(exit code 3\); its last lines:$/,
    )
    t.same(lines.slice(from + 1), ['  typo', '(BATON_ERR_APP_FAILED)'])
  },
)

void t.test(
  'baton run ends with its killed shell, and idle connections do not delay that',
  { timeout: LIMIT },
  async (t) => {
    const port = await freePort()
    const run = new AppRun(t, {
      command: app(t, port),
      shell: '"$0" "$@"; exit $?',
      options: ['--drain-deadline', '10m'],
    })
    await run.serving(1)
    const idle = await Client.open(t, { host: '127.0.0.1', port })
    t.equal((await idle.get()).body, 'hello')
    const silent = await Client.open(t, { host: '127.0.0.1', port })
    // It has been adopted by now, because the one after it was answered.
    const last = await Client.open(t, { host: '127.0.0.1', port })
    t.equal((await last.get()).body, 'hello')
    const processes = run.processes()
    t.equal(processes.length, 3, 'the master, its worker, the app')
    signal(run.program.pid, 'SIGKILL')
    t.same([await idle.ended, await silent.ended, await last.ended], ['end', 'end', 'end'])
    await eventually(() => !processes.some(exists), 'all have ended')
    t.same(await run.ended(processes), { ...NOTHING_LEFT, code: null })
    t.ok(
      run.program.lines.some((line) =>
        /^draining signal="bash \(pid \d+\), which started the broker, has exited"/.test(line),
      ),
    )
  },
)

void t.test(
  'an app that cleans up at SIGTERM does so at a deploy and at the stop, once its connections have gone',
  { timeout: LIMIT },
  async (t) => {
    const port = await freePort()
    const [command = '', file = ''] = app(t, port)
    const cleaning = `
      let over = 0
      process.on('SIGTERM', () => {
        over += 1
        server.close(() => setTimeout(() => {
          console.log('cleaned up at signal ' + over)
          process.exit(0)
        }, 50))
      })`
    appendFileSync(file, cleaning)
    const run = await new AppRun(t, {
      command: [command, file],
      options: ['--drain-deadline', '10h'],
    }).serving(1)
    const idle = await Client.open(t, { host: '127.0.0.1', port })
    t.equal((await idle.get()).body, 'hello')
    const deploy = await run.deploy()
    t.match(await deploy.exited, { code: 0 }, deploy.lines.join('\n'))
    t.equal((await idle.get()).body, 'hello')
    t.same(await run.end('SIGTERM'), NOTHING_LEFT)
    t.same(
      run.program.lines.filter((line) => line.includes('cleaned up')),
      Array.from({ length: 2 }, () => 'app.1 | cleaned up at signal 1'),
    )
    t.equal(await idle.ended, 'end')
  },
)

// `react-router-serve` without PORT, get-port and others open a server for a moment to see whether a port is free. That server became a backend
// that never answered, and the listener of its port was made `tcp`.
void t.test('an app that probes its port before it listens on it', { timeout: LIMIT }, async (t) => {
  const port = await freePort()
  const file = join(temporaryFolder(t), 'app.mjs')
  writeFileSync(
    file,
    `import http from 'node:http'
    import net from 'node:net'
    const isFree = (port) => new Promise((resolve) => {
      const probe = net.createServer()
      probe.unref()
      probe.once('error', ({ code }) => resolve(code))
      probe.listen({ port }, () => {
        const { port } = probe.address()
        console.log('probed ' + port)
        probe.close(() => resolve(port))
      })
    })
    if (await isFree(${port}) !== ${port}) process.exit(3)
    http.createServer((_, response) => response.end('hello')).listen(${port})`,
  )
  const command = [process.execPath, file]
  const given = await freePort()
  // Told the port of `--listen`, the second process found that its first one was another.
  const other = await new AppRun(t, {
    command,
    options: ['-i', '2', '--listen', `127.0.0.1:${given}`],
  }).serving(2)
  const others = await other.listeners()
  t.match(others, [{ listen: `127.0.0.1:${given}`, service: 'app' }])
  t.equal(others.length, 1, 'and no other')
  t.same(await other.end('SIGTERM'), NOTHING_LEFT)

  const run = await new AppRun(t, { command, options: ['-i', '2'] }).serving(2)
  t.equal(run.program.lines.filter((line) => line.endsWith(`probed ${port}`)).length, 2)
  const listeners = await run.listeners()
  t.match(listeners, [{ listen: `[::]:${port}`, protocol: 'http', service: 'app' }])
  t.equal(listeners.length, 1, 'and no other')
  t.equal(run.program.lines.filter((line) => line.startsWith('backend registered ')).length, 2)
  const client = await Client.open(t, { host: '127.0.0.1', port })
  t.equal((await client.get()).body, 'hello')
  t.same(await run.end('SIGTERM'), NOTHING_LEFT)
})
