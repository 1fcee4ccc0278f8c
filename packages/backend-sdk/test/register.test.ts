import { once } from 'node:events'
import { writeFileSync } from 'node:fs'
import { lookup } from 'node:dns/promises'
import { type AddressInfo, createServer, Socket } from 'node:net'
import { join } from 'node:path'
import tls from 'node:tls'
import { socketpair } from '@baton/native-sendmsg'
import t, { type Test } from 'tap'
import { eventually } from '../../../test/support/eventually.ts'
import { FalseBroker, type Registered } from '../../../test/support/false-broker.ts'
import { freePort } from '../../../test/support/free-port.ts'
import { PassedClient } from '../../../test/support/passed-client.ts'
import { Program, root } from '../../../test/support/process.ts'
import { FalseMaster, type Answer, opened, silence } from './false-master.ts'
import { listenTarget } from '../src/register/target.ts'
import { LIMIT } from '../../../test/support/limits.ts'

// The preload for apps that know nothing about Baton: each app is a process of its own, with a scripted master and broker.

const PRELOAD = join(root, 'packages/backend-sdk/dist/register/index.js')

/** The first lines of each app. */
const PROLOGUE = `
import http from 'node:http'
import net from 'node:net'
const say = (msg, more = {}) => console.log(JSON.stringify({ msg, ...more }))
// Without a listener for connections it would be a probe.
const saidOf = (server, name) => server
  .on('connection', () => {})
  .on('listening', () => say('listening', { name, address: server.address(), listening: server.listening }))
  .on('error', ({ code, message, errno, syscall, address, port }) =>
    say('error', { name, code, message, errno, syscall, address, port, listening: server.listening }))
  .on('close', () => say('close', { name }))
`

function preloaded(code: string): string[] {
  return [process.execPath, '--import', PRELOAD, '--input-type=module', '-e', PROLOGUE + code]
}

/** No token may expire while a busy machine slows an app down. */
const PATIENT = { tokenTtl: 600_000 }

interface Rig {
  readonly master: FalseMaster
  readonly broker: FalseBroker
  /** Runs this code with the preload. */
  readonly run: (code: string, env?: NodeJS.ProcessEnv) => Program
}

async function rig(t: Test, answer?: Answer): Promise<Rig> {
  const master = await FalseMaster.start(t, answer)
  const broker = new FalseBroker(t)
  const environment = {
    BATON_MASTER_SOCKET: master.path,
    BATON_SOCKET: broker.control,
    BATON_SERVICE: 'web',
  }
  return {
    master,
    broker,
    run: (code, env = {}) =>
      // The test runner passes a loader to every child, with signal listeners.
      new Program(t, 'env', ['-u', 'NODE_OPTIONS', ...preloaded(code)], {
        env: { ...environment, ...env },
      }),
  }
}

function handOver(registered: Registered, fd: number): void {
  const offer = registered.offer()
  registered.post(offer.token, fd)
  registered.ring(offer)
}

/** A client of the app that has sent a request for `/`. */
function visit(t: Test, registered: Registered): PassedClient {
  const client = new PassedClient(t)
  handOver(registered, client.fd)
  return client
}

async function answered(client: PassedClient, body: string): Promise<void> {
  await eventually(
    () => client.answer.endsWith(body),
    () => `"${body}"; there came ${JSON.stringify(client.answer)}`,
  )
}

const said = (program: Program, msg: string) => program.messages().filter((message) => message['msg'] === msg)

void t.test('which calls of listen() are intercepted', async (t) => {
  const callback = () => {}
  const { signal } = new AbortController()
  const base = { host: undefined, port: 3000, signal: undefined, callback: undefined }
  t.same(listenTarget([3000]), base)
  t.same(listenTarget(['3000']), base)
  t.same(listenTarget([3000, '127.0.0.1']), { ...base, host: '127.0.0.1' })
  t.same(listenTarget([3000, '127.0.0.1', 511, callback]), { ...base, host: '127.0.0.1', callback })
  t.same(listenTarget([3000, 511, callback]), { ...base, callback })
  t.same(listenTarget([3000, undefined, callback]), { ...base, callback })
  t.same(listenTarget([{ port: 3000, ipv6Only: true, backlog: 5, exclusive: true }]), base)
  t.same(listenTarget([{ port: '3000', host: 'localhost', signal }, callback]), {
    host: 'localhost',
    port: 3000,
    signal,
    callback,
  })
  t.same(listenTarget([{ port: 3000, host: null, path: '/ignored' }]), base)
  const untouched: unknown[][] = [
    [],
    [callback],
    [0],
    ['0'],
    [null],
    [undefined],
    ['/run/app.sock'],
    [''],
    [{}],
    [{ port: 0 }],
    [{ port: undefined }],
    [{ path: '/run/app.sock' }],
    [{ fd: 3 }],
    [{ fd: 3, port: 3000 }],
    [{ handle: {}, port: 3000 }],
    [createServer()],
    // Node refuses these with its own errors.
    [65_536],
    [-1],
    [3000.5],
    ['3000x'],
    [{ port: 3000, signal: 'no' }],
    [{ port: 3000, host: 7 }],
  ]
  for (const args of untouched) t.equal(listenTarget(args), undefined, JSON.stringify(args))
})

void t.test(
  'an app that listens is served by the broker, however it calls listen()',
  { timeout: LIMIT },
  async (t) => {
    const { master, broker, run } = await rig(t)
    const app = run(`
    let sync = true
    const listen = (...args) => {
      let calls = 0
      const name = args.shift()
      const server = saidOf(net.createServer(), name)
      if (server.listen(...args, () => say('callback', { name, calls: ++calls, sync })) !== server) say('not itself')
    }
    listen('port', 3001)
    listen('host', 3002, '127.0.0.1')
    listen('backlog', 3003, 'localhost', 10)
    listen('options', { port: 3004, host: '127.0.0.1', backlog: 5 })
    listen('text', '3005')
    sync = false
  `)
    const { address: localhost } = await lookup('localhost')
    for (let each = 0; each < 5; each++) t.equal((await broker.registered(PATIENT)).hello.service, 'web')
    await eventually(() => said(app, 'listening').length === 5, 'all listen')
    t.same(
      new Set(master.requests),
      new Set([
        'listen service=web host=:: port=3001 protocol=tcp',
        'listen service=web host=127.0.0.1 port=3002 protocol=tcp',
        `listen service=web host=${localhost} port=3003 protocol=tcp`,
        'listen service=web host=127.0.0.1 port=3004 protocol=tcp',
        'listen service=web host=:: port=3005 protocol=tcp',
      ]),
    )
    const addresses = Object.fromEntries(said(app, 'listening').map(({ name, address }) => [name, address]))
    t.same(addresses, {
      port: { address: '::', port: 3001, family: 'IPv6' },
      host: { address: '127.0.0.1', port: 3002, family: 'IPv4' },
      backlog: { address: '127.0.0.1', port: 3003, family: 'IPv4' },
      options: { address: '127.0.0.1', port: 3004, family: 'IPv4' },
      text: { address: '::', port: 3005, family: 'IPv6' },
    })
    t.ok(said(app, 'listening').every(({ listening }) => listening === true))
    await eventually(() => said(app, 'callback').length === 5, 'all are called back')
    t.ok(said(app, 'callback').every(({ calls, sync }) => calls === 1 && sync === false))
    t.same(said(app, 'not itself'), [])
  },
)

void t.test('http, https, tls and net servers', { timeout: LIMIT }, async (t) => {
  const { master, broker, run } = await rig(t)
  const psk = "{ ciphers: 'PSK', maxVersion: 'TLSv1.2', pskCallback: () => Buffer.from('0123456789abcdef') }"
  const servers: [kind: string, code: string, encrypted: boolean][] = [
    ['http', `http.createServer((request, response) => response.end('hello'))`, false],
    ['net', `net.createServer((socket) => socket.once('data', () => socket.end('hello')))`, false],
    [
      'https',
      `(await import('node:https')).createServer(${psk}, (request, response) => response.end('hello'))`,
      true,
    ],
    [
      'tls',
      `(await import('node:tls')).createServer(${psk}, (socket) => socket.once('data', () => socket.end('hello')))`,
      true,
    ],
  ]
  const app = run(`
    const servers = { ${servers.map(([kind, code]) => `${kind}: ${code}`).join(', ')} }
    process.stdin.on('data', (kind) => saidOf(servers[kind], String(kind)).listen(3000 + Object.keys(servers).indexOf(String(kind))))
  `)
  for (const [kind, , encrypted] of servers) {
    app.child.stdin?.write(kind)
    const registered = await broker.registered(PATIENT)
    if (!encrypted) {
      await answered(visit(t, registered), 'hello')
      t.pass(kind)
      continue
    }
    const [near, far] = socketpair('stream')
    handOver(registered, far.fd)
    const socket = tls.connect({
      socket: new Socket({ fd: near.release() }),
      ciphers: 'PSK',
      maxVersion: 'TLSv1.2',
      pskCallback: () => ({ psk: Buffer.from('0123456789abcdef'), identity: 'test' }),
      checkServerIdentity: () => undefined,
    })
    far.close()
    t.teardown(() => socket.destroy())
    socket.write('GET / HTTP/1.1\r\nHost: app\r\n\r\n')
    let received = ''
    for await (const chunk of socket.setEncoding('utf8')) {
      received += String(chunk)
      if (received.endsWith('hello')) break
    }
    t.match(received, /hello$/, kind)
  }
  t.same(
    master.requests.map((line) => line.split(' protocol=')[1]),
    ['http', 'tcp', 'tls', 'tls'],
  )
})

void t.test(
  'a server that no one has given a listener for connections is a probe',
  { timeout: LIMIT },
  async (t) => {
    const { master, broker, run } = await rig(t)
    await t.test('closed again: nothing registers before the real server', async (t) => {
      const before = master.requests.length
      const app = run(`
      const probe = net.createServer().listen({ port: 3000 }, () => {
        say('probed', { address: probe.address(), listening: probe.listening })
        probe.close(() => http.createServer((_, response) => response.end('real')).listen(3000))
      })`)
      const registered = await broker.registered(PATIENT)
      t.match(await app.message('probed'), { address: { address: '::', port: 3000 }, listening: true })
      await answered(visit(t, registered), 'real')
      t.same(master.requests.slice(before), [
        'listen service=web host=:: port=3000 protocol=tcp probe=1',
        'listen service=web host=:: port=3000 protocol=http',
      ])
    })
    await t.test('given one later: it is served, and has listened once', async (t) => {
      const before = master.requests.length
      const app = run(`
      const server = net.createServer().listen(3001, () => {
        say('listening')
        server.on('connection', (socket) => socket.end('served'))
      })`)
      await answered(visit(t, await broker.registered(PATIENT)), 'served')
      t.equal(said(app, 'listening').length, 1)
      t.same(master.requests.slice(before), [
        'listen service=web host=:: port=3001 protocol=tcp probe=1',
        'listen service=web host=:: port=3001 protocol=tcp',
      ])
    })
    // Until the master had answered again, it did not listen: `address()` was null, and a `close()` had no effect.
    await t.test('given one later: it listens all the while', async (t) => {
      const app = run(`
      const server = net.createServer().listen(3003, () => {
        server.on('connection', (socket) => socket.end('served'))
        setImmediate(() => say('seen', { port: server.address()?.port, listening: server.listening }))
      })`)
      t.match(await app.message('seen'), { port: 3003, listening: true })
      await answered(visit(t, await broker.registered(PATIENT)), 'served')
    })
    await t.test('given one, and closed before the master has answered', async (t) => {
      const app = run(`
      const server = net.createServer().listen(3004, () => {
        server.on('connection', (socket) => socket.end('served'))
        setImmediate(() => server.close((error) => say('closed', { error: error?.code ?? 'none' })))
      })`)
      t.match(await app.message('closed'), { error: 'none' })
      t.same(await app.exited, { code: 0, signal: null }, 'nothing keeps the process alive')
    })
    await t.test('refused: the error of listen()', async (t) => {
      master.answer = () => 'Success=0\n--\nthe address is in use (EADDRINUSE)\n'
      const app = run(`net.createServer().once('error', ({ code }) => say('error', { code })).listen(3002)`)
      t.match(await app.message('error'), { code: 'EADDRINUSE' })
    })
  },
)

void t.test('without IPv6, no host means all of IPv4', { timeout: LIMIT }, async (t) => {
  const { master, broker, run } = await rig(t, (request) =>
    request['host'] === '::' ? 'Success=0\n--\nbind: EAFNOSUPPORT\n' : opened(request),
  )
  const app = run(`
    saidOf(net.createServer(), 'any').listen(3000)
    saidOf(net.createServer(), 'v6').listen(3001, '::')`)
  await broker.registered(PATIENT)
  t.match(await app.message('error'), { name: 'v6', code: 'EAFNOSUPPORT' })
  await app.message('listening')
  t.same(master.requests.map((line) => line.split(' ').slice(2, 4).join(' ')).toSorted(), [
    'host=0.0.0.0 port=3000',
    'host=:: port=3000',
    'host=:: port=3001',
  ])
})

void t.test('calls without a port of their own are left to Node', { timeout: LIMIT }, async (t) => {
  const { master, run } = await rig(t)
  const path = join(master.path, '..', 'app.sock')
  const app = run(`
    saidOf(net.createServer(), 'any').listen(0, '127.0.0.1')
    saidOf(net.createServer(), 'none').listen()
    saidOf(net.createServer(), 'path').listen(${JSON.stringify(path)})
    saidOf(net.createServer(), 'option').listen({ path: ${JSON.stringify(path)} + '2' })
    const outer = saidOf(net.createServer(), 'outer').listen(0, '127.0.0.1', () => {
      saidOf(net.createServer(), 'handle').listen(outer)
      try { outer.listen(3000) } catch ({ code }) { say('thrown', { code }) }
    })
    try { net.createServer().listen(70000) } catch ({ code }) { say('thrown', { code }) }
  `)
  await eventually(
    () => said(app, 'listening').length === 6,
    () => app.lines.join('\n'),
  )
  const addresses = Object.fromEntries(said(app, 'listening').map(({ name, address }) => [name, address]))
  t.equal(addresses['path'], path)
  t.ok((addresses['any'] as AddressInfo).port > 0)
  t.same(
    new Set(said(app, 'thrown').map(({ code }) => code)),
    new Set(['ERR_SOCKET_BAD_PORT', 'ERR_SERVER_ALREADY_LISTEN']),
  )
  t.same(master.requests, [])
})

void t.test('without a master, listen() is Node’s own', { timeout: LIMIT }, async (t) => {
  const { master, run } = await rig(t)
  const port = await freePort()
  const app = run(
    `saidOf(net.createServer((socket) => socket.end('own')), 'own').listen(${port}, '127.0.0.1')`,
    {
      BATON_MASTER_SOCKET: '',
    },
  )
  await app.message('listening')
  const client = new Socket().connect(port, '127.0.0.1')
  t.equal(String((await once(client, 'data'))[0]), 'own')
  client.destroy()
  t.same(master.requests, [])
})

void t.test('errors are error events of the server', { timeout: LIMIT }, async (t) => {
  const { master, broker, run } = await rig(t)
  const refuse = (reason: string) => `Success=0\n--\n${reason}\n`
  const saying: Record<string, string> = {
    3000: refuse('web: the address is in use by another process (EADDRINUSE)'),
    3001: refuse('this user may not use it (EACCES)'),
    3002: refuse('there is no service "web"'),
    3003: 'Welcome to another protocol\n',
    3004: 'Success=1\n{"service":"web"}\n',
  }
  master.answer = (request) => saying[request['port'] ?? ''] ?? opened(request)
  const ports = (...numbers: number[]) => `
    for (const port of ${JSON.stringify(numbers)})
      saidOf(net.createServer(), port).listen(port, '127.0.0.1', () => say('callback'))`
  const fails = async (app: Program) => {
    t.same(await app.exited, { code: 0, signal: null }, 'nothing is left that keeps the process')
    t.same(said(app, 'callback'), [])
    t.ok(said(app, 'error').every(({ listening }) => listening === false))
    const errors = said(app, 'error').map((error) => [String(error['name']), error])
    return Object.fromEntries(errors) as Record<string, Record<string, unknown>>
  }

  const app = run(ports(3000, 3001, 3002, 3003, 3004, 3005))
  const { wire } = await broker.dialled()
  wire.write({
    type: 'refused',
    code: 'UnknownService',
    message: 'no such service',
    retry: false,
    retryAfter: null,
  })
  const errors = await fails(app)
  t.match(errors[3000], {
    code: 'EADDRINUSE',
    errno: -98,
    syscall: 'listen',
    address: '127.0.0.1',
    port: 3000,
    message: 'listen EADDRINUSE: address already in use 127.0.0.1:3000',
  })
  t.match(errors[3001], { code: 'EACCES', errno: -13 })
  t.match(errors[3002], { code: 'BATON_ERR_LISTEN_REFUSED', message: /there is no service "web"$/ })
  t.match(errors[3003], { code: 'BATON_ERR_MASTER_UNREACHABLE', message: /it answered "Welcome/ })
  t.match(errors[3004], { code: 'BATON_ERR_MASTER_UNREACHABLE' })
  t.match(errors[3005], { code: 'BATON_ERR_REGISTRATION_REFUSED' }, 'the broker refuses')
  t.match(await fails(run(ports(3005), { BATON_MASTER_SOCKET: '/nowhere/master.sock' })), {
    3005: { code: 'BATON_ERR_MASTER_UNREACHABLE', message: /\/nowhere\/master\.sock: .*ENOENT/ },
  })
  t.match(await fails(run(ports(3005), { BATON_SERVICE: '' })), { 3005: { code: 'BATON_ERR_NO_SERVICE' } })

  await t.test(
    'with an error listener, listen() may be tried again; without one, the process ends',
    async (t) => {
      const before = master.requests.length
      const stubborn = run(`
      const server = saidOf(net.createServer(), 'app').once('error', () => server.listen(3001))
      server.listen(3000)
      process.stdin.once('data', () => net.createServer().listen(3002))`)
      await eventually(() => said(stubborn, 'error').length === 2, 'it has tried twice')
      t.same(
        master.requests.slice(before).map((line) => /port=(\d+)/.exec(line)?.[1]),
        ['3000', '3001'],
      )
      stubborn.say('carelessly')
      t.match(await stubborn.exited, { code: 1 })
      t.ok(stubborn.lines.some((line) => line.includes('there is no service "web"')))
    },
  )
})

void t.test(
  'the stack of listen() leads to the app’s own call; a port that the app already uses is in use',
  { timeout: LIMIT },
  async (t) => {
    const { master, broker, run } = await rig(t)
    master.answer = (request) =>
      request['port'] === '3000' ? 'Success=0\n--\nthe address is in use (EADDRINUSE)\n' : opened(request)
    const app = run(`
      const first = ({ stack }) => stack.split('\\n').slice(0, 2).map((line) => line.trim())
      const told = (server, name) => server.on('connection', () => {}).on('error', (error) => say('failed', { name, code: error.code, first: first(error) }))
      function listenOften() { return told(net.createServer(), 'taken').listen(3000, '127.0.0.1') }
      listenOften()
      told(net.createServer(), 'unknown').listen(3002, 'name.invalid')
      const one = net.createServer(() => {}).listen(3001, '127.0.0.1', () => {
        const other = told(net.createServer(), 'twice')
        other.on('error', () => one.close(() => other.listen(3001, '127.0.0.1', () => say('listens'))))
        other.listen(3001, '127.0.0.1')
      })
    `)
    await broker.registered(PATIENT)
    await broker.registered(PATIENT)
    await app.message('listens')
    await eventually(() => said(app, 'failed').length === 3, 'three errors')
    const failed = Object.fromEntries(said(app, 'failed').map((each) => [String(each['name']), each]))
    t.match(failed['taken'], {
      code: 'EADDRINUSE',
      first: ['Error: listen EADDRINUSE: address already in use 127.0.0.1:3000', /^at listenOften /],
    })
    t.match(failed['twice'], {
      code: 'EADDRINUSE',
      first: [
        'Error: listen EADDRINUSE: address already in use 127.0.0.1:3001',
        /^at Server\.<anonymous> .*eval1/,
      ],
    })
    t.match(failed['unknown'], { code: 'ENOTFOUND', first: [/getaddrinfo ENOTFOUND/, /eval1/] })
    app.kill('SIGKILL')
  },
)

void t.test(
  'a session cut by a reload of the master is opened again; a second listen() throws, before and after the first one listens',
  { timeout: LIMIT },
  async (t) => {
    const { master, broker, run } = await rig(t, (request) =>
      master.requests.length < 3 ? undefined : opened(request),
    )
    const app = run(`
    const server = saidOf(net.createServer(), 'app').listen(3000)
    const again = (...args) => { try { server.listen(...args) } catch ({ code, message }) { say('thrown', { code, message }) } }
    again(3001)
    again(0)
    server.on('listening', () => { again(3001); again(0) })
  `)
    await broker.registered(PATIENT)
    await app.message('listening')
    t.same(new Set(master.requests).size, 1)
    t.equal(master.requests.length, 3)
    await eventually(() => said(app, 'thrown').length === 4, 'four errors')
    const [own, ...others] = said(app, 'thrown')
    t.equal(own?.['code'], 'ERR_SERVER_ALREADY_LISTEN')
    for (const other of others) t.same(other, own)
  },
)

void t.test('close() behaves as on a listening server', { timeout: LIMIT }, async (t) => {
  const { master, broker, run } = await rig(t)

  await t.test('requests in flight finish, then the process has nothing left to do', async (t) => {
    const app = run(`
      let answer
      const server = saidOf(http.createServer((request, response) => {
        answer = () => response.end('late')
        say('request')
      }), 'app').listen(3000)
      process.stdin.once('data', () => {
        server.close(() => say('closed'))
        say('closing', { listening: server.listening })
        process.stdin.once('data', () => { answer(); process.stdin.destroy() })
      })
    `)
    const registered = await broker.registered(PATIENT)
    const client = visit(t, registered)
    await app.message('request')
    app.child.stdin?.write('close')
    t.match(await app.message('closing'), { listening: false })
    await registered.wire.frame('drain')
    t.same(said(app, 'closed'), [])
    app.child.stdin?.write('answer')
    await answered(client, 'late')
    await app.message('closed')
    t.same(await app.exited, { code: 0, signal: null })
  })

  await t.test('before the master answers, before the broker does, and by an AbortSignal', async (t) => {
    const { answer } = master
    master.answer = (request) => (request['port'] === '3000' ? silence : opened(request))
    const app = run(`
      const first = saidOf(net.createServer(), 'silence').listen(3000, () => say('callback'))
      setImmediate(() => first.close((error) => say('closed', { error })))
      const abort = new AbortController()
      saidOf(net.createServer(), 'late').listen({ port: 3001, signal: abort.signal }, () => {
        abort.abort()
        const second = saidOf(net.createServer(), 'dialled').listen(3003)
        process.stdin.once('data', () => { second.close(() => say('closed')); process.stdin.destroy() })
      })
      saidOf(net.createServer(), 'early').listen({ port: 3002, signal: AbortSignal.abort() })
    `)
    await broker.registered(PATIENT)
    await broker.dialled()
    app.child.stdin?.write('close')
    t.same(await app.exited, { code: 0, signal: null })
    t.same(said(app, 'closed').length, 2)
    t.same(said(app, 'error').length + said(app, 'callback').length, 0)
    t.equal(said(app, 'close').length, 4)
    t.same(
      new Set(said(app, 'close').map(({ name }) => name)),
      new Set(['dialled', 'early', 'late', 'silence']),
    )
    t.same(
      said(app, 'listening').map(({ name }) => name),
      ['late'],
    )
    master.answer = answer
  })

  await t.test('and the server may listen again', async (t) => {
    const app = run(`
      const server = saidOf(http.createServer((request, response) => response.end('again')), 'app').listen(3000)
      server.once('listening', () => server.close(() => server.listen(3001)))
    `)
    await broker.registered(PATIENT)
    const second = await broker.registered(PATIENT)
    await eventually(() => said(app, 'listening').length === 2, 'it listens twice')
    t.match(said(app, 'listening')[1]?.['address'], { port: 3001 })
    await answered(visit(t, second), 'again')
  })
})

/** An app that answers `/` on a command on stdin. */
const WAITING = `
  const server = saidOf(http.createServer((request, response) => {
    process.stdin.once('data', () => response.end('late'))
    say('request')
  }), 'app').listen(3000)
`

void t.test(
  'SIGTERM and drain: an app exits once its clients have their responses',
  { timeout: LIMIT },
  async (t) => {
    const { broker, run } = await rig(t)
    const begin = async (t: Test, code = '') => {
      const app = run(WAITING + code)
      const registered = await broker.registered(PATIENT)
      await app.message('listening')
      const client = visit(t, registered)
      await app.message('request')
      return { app, registered, client }
    }

    await t.test('SIGTERM', async (t) => {
      const { app, registered, client } = await begin(t)
      app.kill('SIGTERM')
      await registered.wire.frame('drain')
      t.ok(app.running)
      app.child.stdin?.write('answer')
      await answered(client, 'late')
      t.same(await app.exited, { code: 0, signal: null })
    })

    await t.test('SIGTERM, where signal-exit cleans up', async (t) => {
      const { app, registered, client } = await begin(
        t,
        `const emitter = (globalThis[Symbol.for('signal-exit emitter')] = { count: 1 })
        process.on('SIGTERM', function clean() {
          if (process.listeners('SIGTERM').length !== emitter.count) return
          process.off('SIGTERM', clean)
          process.kill(process.pid, 'SIGTERM')
        })`,
      )
      app.kill('SIGTERM')
      await registered.wire.frame('drain')
      app.child.stdin?.write('answer')
      await answered(client, 'late')
      t.same(await app.exited, { code: 0, signal: null })
    })

    await t.test('a second one ends it at once', async (t) => {
      const { app, registered } = await begin(t)
      app.kill('SIGTERM')
      await registered.wire.frame('drain')
      app.kill('SIGTERM')
      t.same(await app.exited, { code: 143, signal: null })
    })

    await t.test('the operator’s drain', async (t) => {
      const { app, registered, client } = await begin(t, 'setInterval(() => {}, 60_000)')
      registered.wire.write({ type: 'drain', deadline: 30_000, reason: 'requested by the operator' })
      await registered.wire.frame('drain')
      t.ok(app.running)
      app.child.stdin?.write('answer')
      await answered(client, 'late')
      t.same(await app.exited, { code: 0, signal: null })
      t.equal(registered.wire.all('drained').length, 1)
    })

    // It exited once it had drained, so that what frameworks do at SIGTERM (closing databases, flushing logs) was left out at each deploy.
    for (const sender of ['the master', 'no one']) {
      await t.test(
        `the operator’s drain of an app that handles SIGTERM: its handler runs, once, with SIGTERM from ${sender}`,
        async (t) => {
          const { app, registered, client } = await begin(
            t,
            `process.once('SIGTERM', () => {
              server.close(() => process.stdin.once('data', () => { say('cleaned up'); process.exit(7) }))
              say('SIGTERM')
            })`,
          )
          registered.wire.write({ type: 'drain', deadline: 30_000, reason: 'requested by the operator' })
          await registered.wire.frame('drain')
          app.child.stdin?.write('answer')
          await answered(client, 'late')
          await registered.wire.frame('drained')
          if (sender === 'the master') app.kill('SIGTERM')
          await app.message('SIGTERM')
          app.child.stdin?.write('clean up')
          t.same(await app.exited, { code: 7, signal: null })
          t.equal(said(app, 'SIGTERM').length, 1)
        },
      )
    }

    for (const place of ['before', 'after'] as const) {
      await t.test(`an app with its own SIGTERM handler decides itself (${place} listen())`, async (t) => {
        const own = `process.once('SIGTERM', () => { say('own'); server.close(() => say('closed')) });`
        const app = run(
          place === 'before' ? `var server; ${own} ${WAITING.replace('const ', '')}` : WAITING + own,
        )
        const registered = await broker.registered(PATIENT)
        await app.message('listening')
        app.kill('SIGTERM')
        await app.message('own')
        await registered.wire.frame('drained')
        await app.message('closed')
        app.child.stdin?.end()
        t.same(await app.exited, { code: 0, signal: null })
      })
    }

    await t.test('with several servers, the app exits after the last one', async (t) => {
      const app = run(
        `saidOf(net.createServer(), 'one').listen(3000); saidOf(net.createServer(), 'two').listen(3001)`,
      )
      const [one, two] = [await broker.registered(PATIENT), await broker.registered(PATIENT)]
      await eventually(() => said(app, 'listening').length === 2, 'both listen')
      one.wire.write({ type: 'drain', deadline: null, reason: 'requested by the operator' })
      await one.wire.frame('drained')
      t.ok(app.running)
      two.wire.write({ type: 'drain', deadline: null, reason: 'requested by the operator' })
      t.same(await app.exited, { code: 0, signal: null })
    })

    await t.test('with several servers, all follow the one that the master knows', async (t) => {
      const id = '01ARZ3NDEKTSV4RRFFQ69G5FAV'
      const app = run(
        `saidOf(net.createServer((socket) => socket.once('data', () => socket.destroy())), 'one').listen(3000)
        ${WAITING.replace('3000', '3001')}`,
        { BATON_BACKEND_ID: id },
      )
      const both = [await broker.registered(PATIENT), await broker.registered(PATIENT)]
      await eventually(() => said(app, 'listening').length === 2, 'both listen')
      const known = both.find(({ hello }) => hello.backend === id) as Registered
      const other = both.find((each) => each !== known) as Registered
      // Only the app knows which of the two servers registered first.
      const clients = both.map((each) => visit(t, each))
      await app.message('request')
      known.wire.write({ type: 'drain', deadline: null, reason: 'a deploy' })
      await other.wire.frame('drain')
      app.kill('SIGTERM')
      app.child.stdin?.write('answer')
      await eventually(() => clients.some(({ answer }) => answer.endsWith('late')), 'the answer')
      t.same(await app.exited, { code: 0, signal: null })
    })
  },
)

void t.test(
  'an app with its own workers keeps its ports, and gets one warning',
  { timeout: LIMIT },
  async (t) => {
    const { master, run } = await rig(t)
    const [port, other] = [await freePort(), await freePort()]
    const script = join(master.path, '..', 'cluster.mjs')
    writeFileSync(
      script,
      `import cluster from 'node:cluster'
    import net from 'node:net'
    if (cluster.isPrimary) {
      const ports = []
      cluster.fork().on('listening', ({ port }) => {
        if (ports.push(port) < 2) return
        console.log(JSON.stringify({ msg: 'worker', ports }))
        cluster.disconnect()
      })
    } else {
      net.createServer().listen(${port}, '127.0.0.1')
      net.createServer().listen(${other}, '127.0.0.1')
    }`,
    )
    const app = run(`process.argv[1] = ${JSON.stringify(script)}; await import(process.argv[1])`)
    t.same(new Set((await app.message('worker'))['ports'] as number[]), new Set([port, other]))
    await app.exited
    t.same(master.requests, [])
    const warnings = app.lines.filter((line) => line.includes('BATON_WARN_CLUSTER'))
    t.ok(warnings.length >= 1 && warnings.length <= 2, 'one of each process that listens')
  },
)

void t.test('a process that never listens runs as usual', { timeout: LIMIT }, async (t) => {
  const { master, run } = await rig(t)
  const app = run(`
    const before = process.listenerCount('SIGTERM')
    setImmediate(() => say('done', { listeners: process.listenerCount('SIGTERM') - before }))
  `)
  t.match(await app.message('done'), { listeners: 0 })
  t.same(await app.exited, { code: 0, signal: null })
  t.same(master.requests, [])
})
