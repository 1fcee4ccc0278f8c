import { execFileSync, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync, symlinkSync } from 'node:fs'
import { Agent, type IncomingMessage, request as httpRequest } from 'node:http'
import { connect as connectHttp2 } from 'node:http2'
import { request as httpsRequest } from 'node:https'
import { connect } from 'node:net'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import { Client as GrpcClient, credentials } from '@grpc/grpc-js'
import t, { type Test } from 'tap'
import { WebSocket } from 'ws'
import { type Broker, startBroker, unaccounted } from './support/broker.ts'
import { baton } from './support/command.ts'
import { Program, root, temporaryFolder } from './support/process.ts'
import { LIMIT } from './support/limits.ts'

const readme = readFileSync(join(root, 'examples/README.md'), 'utf8')

/** The command in examples/README.md that runs this program, so the documented command is the one tested. */
function commandOf(file: string): { command: string; args: string[]; env: Record<string, string> } {
  const line = readme.split('\n').find((each) => /^[A-Z_]+=\S+ /.test(each) && each.includes(`/${file}`))
  if (line === undefined) throw new Error(`examples/README.md has no command that runs ${file}`)
  const words = line.split(' ')
  const env: Record<string, string> = {}
  while (words[0]?.includes('=')) {
    const [name = '', value = ''] = (words.shift() as string).split('=')
    env[name] = value
  }
  const [command = '', ...args] = words
  return { command: command === 'node' ? process.execPath : command, args, env }
}

/** Runs an example as its README says; resolves once it has registered. `cwd`: a folder that contains `examples`. */
async function startExample(test: Test, broker: Broker, file: string, cwd = root): Promise<Program> {
  const { command, args, env } = commandOf(file)
  const before = new Set(
    (await broker.status()).services.flatMap((each) => each.backends.map(({ id }) => id)),
  )
  // Its default is shorter than the pauses of a test on a slow machine.
  const more = { BATON_SOCKET: broker.control, KEEP_ALIVE: '600' }
  const program = new Program(test, command, args, { env: { ...env, ...more }, cwd })
  const gone = program.exited.then(() => {
    throw new Error(`${file} ended before it was registered:\n${program.lines.join('\n')}`)
  })
  const joined = broker.until(
    ({ services }) =>
      services.some(
        ({ name, backends }) =>
          name === env['BATON_SERVICE'] &&
          backends.some(({ id, pid, state }) => !before.has(id) && pid === program.pid && state === 'ready'),
      ),
    `${file} registered for ${env['BATON_SERVICE']}`,
  )
  await Promise.race([joined, gone])
  return program
}

/** Waits until the broker offers it no more connections. A backend with nothing to finish disappears from the status. */
async function draining(broker: Broker, pid: number): Promise<void> {
  await broker.until(
    ({ services }) =>
      services.every(({ backends }) =>
        backends.every((each) => each.pid !== pid || each.state === 'draining'),
      ),
    `backend ${pid} draining`,
  )
}

interface Answer {
  status: number | undefined
  connection: string | undefined
  body: string
  localPort: number | undefined
}

async function get(url: string, agent: Agent): Promise<Answer> {
  const request = httpRequest(url, { agent })
  request.end()
  const [response] = (await once(request, 'response')) as [IncomingMessage]
  const { localPort } = response.socket
  const { statusCode: status, headers } = response
  return { status, connection: headers.connection, body: await text(response), localPort }
}

/** In CI a missing interpreter is a failure, not a reason to skip. */
function pythonIsHere(): boolean {
  return process.env['CI'] !== undefined || spawnSync('python3', ['--version']).status === 0
}

function startAll(test: Test): Promise<Broker> {
  const config = JSON.parse(readFileSync(join(root, 'examples/baton.json'), 'utf8')) as {
    runtimeDir: string
    listeners: { listen: string }[]
    services: Record<string, object>
  }
  // The documented file, except for names shared with other tests that run at the same time, and for deadlines that a
  // busy machine could miss.
  const patient = { ackDeadline: '5m', tokenTtl: '10m', holdTimeout: '10m' }
  const services = Object.fromEntries(
    Object.entries(config.services).map(([name, service]) => [
      name,
      { ...service, ...patient, ...('command' in service && { cwd: join(root, 'examples') }) },
    ]),
  )
  const listeners = config.listeners.map((listener) => ({ ...listener, listen: '127.0.0.1:0' }))
  const runtimeDir = join(temporaryFolder(test), 'run')
  return startBroker(test, { config: { ...config, listeners, services, runtimeDir } })
}

t.setTimeout(LIMIT)

void t.test('examples', async (t) => {
  const broker = await startAll(t)

  void t.test(
    'fastify.js and express.js answer the client themselves; when one drains, its connection moves to the other',
    { timeout: LIMIT },
    async (t) => {
      const programs = [
        await startExample(t, broker, 'fastify.js'),
        await startExample(t, broker, 'express.js'),
      ]
      const agent = new Agent({ keepAlive: true, maxSockets: 1 })
      t.teardown(() => agent.destroy())
      let answer = await get(broker.url(), agent)
      const { localPort } = answer
      const hello = ({ pid }: Program) => `Hello from process ${pid}. You are 127.0.0.1:${localPort}.\n`

      const first = programs.find((each) => hello(each) === answer.body)
      const other = programs.find((each) => each !== first)
      if (first === undefined || other === undefined) throw new Error(`none of them answered: ${answer.body}`)
      first.kill('SIGTERM')
      while (answer.body === hello(first)) {
        answer = await get(broker.url(), agent)
        t.match(answer, { status: 200, localPort }, 'the same connection')
        t.not(answer.connection, 'close')
      }
      t.equal(answer.body, hello(other))
      t.same(await first.exited, { code: 0, signal: null }, 'nothing keeps the process alive')
      other.kill('SIGTERM')
      t.same(await other.exited, { code: 0, signal: null })
    },
  )

  void t.test(
    'backend.py answers the client itself; when it drains, its connection moves to another one',
    { timeout: LIMIT, skip: !pythonIsHere() && 'python3 is not installed' },
    async (t) => {
      const program = await startExample(t, broker, 'backend.py')
      const agent = new Agent({ keepAlive: true, maxSockets: 1 })
      t.teardown(() => agent.destroy())

      const first = await get(broker.url(), agent)
      t.equal(first.body, `pid ${program.pid} answers 127.0.0.1:${first.localPort}\n`)

      const other = await startExample(t, broker, 'backend.py')
      program.kill('SIGTERM')
      t.same(await program.exited, { code: 0, signal: null }, 'nothing keeps the process alive')
      const next = await get(broker.url(), agent)
      t.equal(next.body, `pid ${other.pid} answers 127.0.0.1:${first.localPort}\n`, 'the same connection')
      t.not(next.connection, 'close')
      other.kill('SIGTERM')
      t.same(await other.exited, { code: 0, signal: null })
    },
  )

  void t.test(
    'net-echo.js echoes through a half-close, and a session outlives the start of a drain',
    { timeout: LIMIT },
    async (t) => {
      const program = await startExample(t, broker, 'net-echo.js')
      const client = connect({ port: broker.port('echo'), host: '127.0.0.1', allowHalfOpen: true })
      t.teardown(() => client.destroy())
      client.write('before ')
      const [echoed] = (await once(client, 'data')) as [Buffer]
      t.equal(echoed.toString(), 'before ')

      program.kill('SIGTERM')
      await draining(broker, program.pid)
      const sent = 'x'.repeat(1 << 20)
      client.end(sent)
      t.equal(await text(client), sent, 'all of it, after the client’s FIN')
      t.same(await program.exited, { code: 0, signal: null })
    },
  )

  void t.test(
    'ws-chat.js is deployed while its clients talk: each keeps its connection and its name',
    { timeout: LIMIT },
    async (t) => {
      const [before] =
        (await broker.backends(1, 'chat')).services.find(({ name }) => name === 'chat')?.backends ?? []
      const url = `ws://${broker.address('chat')}`
      // The command of examples/README.md, at the port of this test.
      const client = new Program(t, process.execPath, ['examples/dist/ws-chat-client.js', url], { cwd: root })
      await client.line((line) => line.includes('joined'), 'it has joined')
      client.say('/name Ada')
      await client.line((line) => line.includes('is now Ada'), 'it has a name')
      const listener = new WebSocket(url)
      t.teardown(() => listener.terminate())
      const received: string[] = []
      listener.on('message', (data: Buffer) => received.push(data.toString()))
      await once(listener, 'open')
      const heard = async (text: string) => {
        while (!received.some((line) => line.startsWith(text))) await once(listener, 'message')
        return received.find((line) => line.startsWith(text))
      }
      client.say('before')
      t.equal(await heard('Ada: before'), `Ada: before [process ${before?.pid}]`)

      // `npx baton deploy chat`
      const { code, err } = await baton(t, ['deploy', 'chat', '--config', broker.configFile])
      t.equal(code, 0, err.join('\n'))
      const [after] =
        (await broker.backends(1, 'chat')).services.find(({ name }) => name === 'chat')?.backends ?? []
      t.not(after?.pid, before?.pid)
      client.say('after')
      t.equal(await heard('Ada: after'), `Ada: after [process ${after?.pid}]`)
      listener.send('and back')
      await client.line((line) => line.includes('and back'), 'the other way')
      t.same(
        received.filter((line) => line.includes(' left ')),
        [],
        'none has left',
      )
      t.notOk(client.lines.some((line) => line.startsWith('closed')))
      client.kill('SIGTERM')
      await heard('Ada left')
    },
  )

  void t.test(
    'tls.js serves both HTTP/2 and HTTP/1.1 with its own certificate',
    { timeout: LIMIT },
    async (t) => {
      const folder = temporaryFolder(t)
      symlinkSync(join(root, 'examples'), join(folder, 'examples'))
      const openssl = readme.split('\n').find((line) => line.startsWith('openssl '))
      execFileSync('sh', ['-c', openssl as string], { cwd: folder, stdio: 'pipe' })
      const ca = readFileSync(join(folder, 'cert.pem'))

      const program = await startExample(t, broker, 'tls.js', folder)
      const url = `https://127.0.0.1:${broker.port('tls')}`
      const request = httpsRequest(url, { ca, agent: false })
      request.end()
      const [response] = (await once(request, 'response')) as [IncomingMessage]
      const { localPort } = response.socket
      t.equal(await text(response), `HTTP/1.1 from process ${program.pid}. You are 127.0.0.1:${localPort}.\n`)

      const session = connectHttp2(url, { ca })
      t.teardown(() => session.destroy())
      const stream = session.request({ ':path': '/' })
      t.equal(
        await text(stream),
        `HTTP/2.0 from process ${program.pid}. You are 127.0.0.1:${session.socket.localPort}.\n`,
      )

      const goaway = once(session, 'goaway')
      program.kill('SIGTERM')
      t.equal((await goaway)[0], 0, 'GOAWAY without an error')
      t.same(await program.exited, { code: 0, signal: null })
    },
  )

  void t.test('grpc.js answers calls, and ends when its clients have left', { timeout: LIMIT }, async (t) => {
    const program = await startExample(t, broker, 'grpc.js')
    const json = (value: unknown) => Buffer.from(JSON.stringify(value))
    const parsed = (bytes: Buffer) => JSON.parse(String(bytes)) as { text: string }
    const client = new GrpcClient(broker.address('grpc'), credentials.createInsecure())
    t.teardown(() => client.close())
    const { text: said } = await new Promise<{ text: string }>((resolve, reject) => {
      client.makeUnaryRequest('/example.Greeter/Greet', json, parsed, { text: 'Ada' }, (error, answer) =>
        error === null && answer !== undefined ? resolve(answer) : reject(error as Error),
      )
    })
    t.match(said, new RegExp(`^Hello Ada at 127\\.0\\.0\\.1:\\d+, from process ${program.pid}\\.$`))
    program.kill('SIGTERM')
    t.same(await program.exited, { code: 0, signal: null })
  })

  void t.test('tls.js without a certificate prints its usage', { timeout: LIMIT }, async (t) => {
    const program = new Program(t, process.execPath, [join(root, 'examples/dist/tls.js')], {
      env: { BATON_SERVICE: 'tls', BATON_SOCKET: broker.control },
    })
    t.same(await program.exited, { code: 2, signal: null })
    t.match(program.lines.join('\n'), /usage: tls\.js --cert FILE --key FILE/)
  })

  void t.test('every accepted connection has one outcome', async (t) => {
    const status = await broker.until((each) => unaccounted(each) === 0, 'all connections accounted for')
    t.ok(status.listeners.every(({ accepted }) => accepted > 0))
  })
})
