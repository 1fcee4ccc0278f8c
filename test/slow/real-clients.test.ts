import { execFile, execFileSync, spawnSync } from 'node:child_process'
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { request as httpRequest } from 'node:http'
import { connect as connectTcp } from 'node:net'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import { connect as connectTls } from 'node:tls'
import { promisify } from 'node:util'
import t, { type Test } from 'tap'
import { startBackend } from '../support/backend.ts'
import { startBroker } from '../support/broker.ts'
import { Chromium } from '../support/chromium.ts'
import { Client } from '../support/client.ts'
import { eventually } from '../support/eventually.ts'
import { freePort } from '../support/free-port.ts'
import { LIMIT } from '../support/limits.ts'
import { Program, root, temporaryFolder } from '../support/process.ts'
import { PATIENT } from '../support/service.ts'

// Real load balancers in front of the broker, and real TLS clients of a listener with fifty names.

const run = promisify(execFile)
const isHere = (program: string, ...args: string[]) => spawnSync(program, args).error === undefined
const NGINX_STREAM = '/usr/lib/nginx/modules/ngx_stream_module.so'
const missing = {
  haproxy: !isHere('haproxy', '-v') && 'haproxy is not installed',
  nginx:
    !(isHere('nginx', '-v') && existsSync(NGINX_STREAM)) && 'nginx or libnginx-mod-stream is not installed',
  curl: !isHere('curl', '--version') && 'curl is not installed',
  openssl: !isHere('openssl', 'version') && 'openssl is not installed',
  chromium: !existsSync('/usr/bin/chromium') && 'chromium is not installed',
  deno: !isHere('deno', '--version') && 'deno is not installed',
}

const folder = temporaryFolder(t)
const file = (name: string, content: string) => {
  writeFileSync(join(folder, name), content)
  return join(folder, name)
}
const [KEY, CERTIFICATE] = [join(folder, 'key.pem'), join(folder, 'certificate.pem')]
const wanted = 'req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2'
const names = '-subj /CN=shop.example -addext subjectAltName=DNS:*.shop.example,DNS:shop.example'
execFileSync('openssl', [...`${wanted} ${names}`.split(' '), '-keyout', KEY, '-out', CERTIFICATE], {
  stdio: 'pipe',
})
const PEM = file('both.pem', readFileSync(CERTIFICATE, 'utf8') + readFileSync(KEY, 'utf8'))
const ca = readFileSync(CERTIFICATE)

const NAMES = Array.from({ length: 50 }, (_, index) => `n${index}`)
const unixIn = join(folder, 'in.sock')
const TRUSTED = { from: ['127.0.0.1'] }
const listener = (name: string, more: object) => ({
  name,
  listen: '127.0.0.1:0',
  protocol: 'http',
  service: 'web',
  peekTimeout: '30m',
  ...more,
})
const broker = await startBroker(t, {
  config: {
    listeners: [
      listener('plain', { proxyProtocol: TRUSTED }),
      listener('untrusting', { proxyProtocol: { from: ['10.0.0.0/8'] } }),
      listener('unix', { listen: `unix:${unixIn}`, proxyProtocol: { from: [`uid:${process.getuid?.()}`] } }),
      listener('secure', { protocol: 'tls', service: 'n0', proxyProtocol: TRUSTED }),
      listener('names', {
        protocol: 'tls',
        service: null,
        routes: NAMES.map((name) => ({ sni: `${name}.shop.example`, service: name })),
      }),
    ],
    services: { web: PATIENT, ...Object.fromEntries(NAMES.map((name) => [name, PATIENT])) },
    drainDeadline: '0s',
  },
})
await startBackend(t, broker)
const named = new Program(t, process.execPath, [join(root, 'test/programs/named-backends.mjs')], {
  env: { BATON_SOCKET: broker.control, SERVICES: NAMES.join(','), KEY, CERTIFICATE },
})
await named.message('ready')
for (const name of NAMES) await broker.backends(1, name)

interface Seen {
  readonly remoteAddress: string
  readonly remotePort: number
}

/** A request by a client with this address of its own. */
function ask(t: Test, where: { port: number; localAddress?: string } | { path: string }) {
  return new Promise<{ status: number; seen: Seen; own: number }>((resolve, reject) => {
    const target = 'path' in where ? { socketPath: where.path } : { host: '127.0.0.1', ...where }
    const request = httpRequest({ ...target, path: '/', agent: false }, (response) => {
      const own = response.socket.localPort ?? 0
      void text(response).then((body) => {
        const status = response.statusCode ?? 0
        resolve({ status, seen: status === 200 ? (JSON.parse(body) as Seen) : ({} as Seen), own })
      }, reject)
    })
    request.on('error', reject)
    t.teardown(() => request.destroy())
    request.end()
  })
}

function askTls(t: Test, port: number, servername = 'shop.example'): Promise<{ seen: Seen; own: number }> {
  return new Promise((resolve, reject) => {
    const raw = connectTcp({ port, host: '127.0.0.1', localAddress: '127.0.0.9' })
    const socket = connectTls({ socket: raw, servername, ca }, () => {
      const own = raw.localPort ?? 0
      socket.write(`GET / HTTP/1.1\r\nHost: ${servername}\r\nConnection: close\r\n\r\n`)
      void text(socket).then((answer) => {
        const [, body = '{}'] = /(\{.*\})/.exec(answer) ?? []
        resolve({ seen: JSON.parse(body) as Seen, own })
      }, reject)
    })
    socket.on('error', reject)
    t.teardown(() => socket.destroy())
  })
}

const unrouted = (name: string, reason: string) =>
  broker.metric(`baton_connections_unrouted_total{listener="${name}",reason="${reason}"}`)
const accepted = async (name: string) =>
  (await broker.status()).listeners.find((each) => each.name === name)?.accepted ?? 0

void t.test('HAProxy in front', { timeout: LIMIT, skip: missing.haproxy }, async (t) => {
  const ports = {
    v1: await freePort(),
    v2: await freePort(),
    tlvs: await freePort(),
    unix: await freePort(),
    secure: await freePort(),
    untrusted: await freePort(),
  }
  const [stats, clients] = [join(folder, 'stats'), join(folder, 'clients')]
  const plain = `127.0.0.1:${broker.port('plain')}`
  const tlvs = 'ssl,cert-cn,ssl-cipher,cert-sig,cert-key,authority,crc32c,unique-id'
  const config = `
global
  stats socket ${stats} level admin
defaults
  mode tcp
  timeout connect 5s
  timeout client 5m
  timeout server 5m
listen v1
  bind 127.0.0.1:${ports.v1}
  server s ${plain} send-proxy
listen v2
  bind 127.0.0.1:${ports.v2}
  server s ${plain} send-proxy-v2
listen tlvs
  bind 127.0.0.1:${ports.tlvs} ssl crt ${PEM} alpn http/1.1
  unique-id-format %ci:%cp
  server s ${plain} send-proxy-v2 send-proxy-v2-ssl-cn proxy-v2-options ${tlvs}
listen clients
  bind unix@${clients}
  server s ${plain} send-proxy-v2
listen unix
  bind 127.0.0.1:${ports.unix}
  server s unix@${unixIn} send-proxy-v2
listen secure
  bind 127.0.0.1:${ports.secure}
  server s 127.0.0.1:${broker.port('secure')} send-proxy-v2
listen checked
  bind unix@${clients}-2
  server s ${plain} send-proxy-v2 check check-send-proxy inter 100ms
listen untrusted
  bind 127.0.0.1:${ports.untrusted}
  server s 127.0.0.1:${broker.port('untrusting')} send-proxy-v2
`
  const proxy = new Program(t, 'haproxy', ['-db', '-f', file('haproxy.cfg', config)])
  await eventually(() => {
    if (!proxy.running) throw new Error(proxy.lines.join('\n'))
    return existsSync(clients)
  }, 'HAProxy listens')
  const show = async () => {
    const socket = connectTcp(stats)
    socket.end('show stat\n')
    return text(socket)
  }

  for (const way of ['v1', 'v2', 'unix'] as const)
    await t.test(way, async (t) => {
      const { status, seen, own } = await ask(t, { port: ports[way], localAddress: '127.0.0.9' })
      t.equal(status, 200)
      t.match(seen, { remoteAddress: '127.0.0.9', remotePort: own })
    })

  await t.test('version 2 with every TLV, behind TLS that ends in HAProxy', async (t) => {
    const { seen, own } = await askTls(t, ports.tlvs)
    t.match(seen, { remoteAddress: '127.0.0.9', remotePort: own })
  })

  await t.test('TLS that ends in the app: the address of the client on the TLSSocket', async (t) => {
    const { seen, own } = await askTls(t, ports.secure)
    t.match(seen, { remoteAddress: '127.0.0.9', remotePort: own })
  })

  await t.test(
    'clients of its Unix socket come as LOCAL: with the address of HAProxy, and served',
    async (t) => {
      const { status, seen } = await ask(t, { path: clients })
      t.equal(status, 200)
      t.equal(seen.remoteAddress, '127.0.0.1')
    },
  )

  await t.test('health checks succeed, and leave nothing', async (t) => {
    const before = await accepted('plain')
    await eventually(async () => (await accepted('plain')) > before + 10, 'HAProxy checks')
    const rows = (await show()).split('\n').filter((row) => row.startsWith('checked,s,'))
    t.match(rows[0], /,UP,/)
    t.equal(await unrouted('plain', 'proxy_header'), 0)
  })

  await t.test('from an untrusted source the header is data, which the backend refuses', async (t) => {
    const { status } = await ask(t, { port: ports.untrusted })
    t.equal(status, 400, 'from the server of the backend')
  })
})

void t.test('nginx stream in front', { timeout: LIMIT, skip: missing.nginx }, async (t) => {
  const [plain, secure] = [await freePort(), await freePort()]
  const config = `
load_module ${NGINX_STREAM};
daemon off;
pid ${folder}/nginx.pid;
error_log stderr;
worker_processes 1;
events {}
stream {
  server { listen 127.0.0.1:${plain}; proxy_pass 127.0.0.1:${broker.port('plain')}; proxy_protocol on; }
  server { listen 127.0.0.1:${secure}; proxy_pass 127.0.0.1:${broker.port('secure')}; proxy_protocol on; }
}
`
  const args = ['-p', folder, '-c', file('nginx.conf', config), '-e', 'stderr']
  const proxy = new Program(t, 'nginx', args, { group: true })
  await eventually(async () => {
    if (!proxy.running) throw new Error(proxy.lines.join('\n'))
    const probe = new Client(t, { port: secure, host: '127.0.0.1' })
    return (
      (await Promise.race([
        probe.ended,
        new Promise((resolve) => probe.socket.once('connect', () => resolve('open'))),
      ])) === 'open'
    )
  }, 'nginx listens')
  const { seen, own } = await ask(t, { port: plain, localAddress: '127.0.0.9' })
  t.match(seen, { remoteAddress: '127.0.0.9', remotePort: own }, 'version 1')
  const over = await askTls(t, secure)
  t.match(over.seen, { remoteAddress: '127.0.0.9', remotePort: over.own }, 'before the ClientHello')
})

void t.test('curl --haproxy-protocol', { timeout: LIMIT, skip: missing.curl }, async (t) => {
  const curl = async (url: string, ...more: string[]) => {
    const args = ['-s', '--haproxy-protocol', '--interface', '127.0.0.1', '--cacert', CERTIFICATE]
    const { stdout } = await run('curl', [...args, '-w', '\n%{local_port} %{http_code}', ...more, url])
    const [body = '', tail = ''] = stdout.split('\n')
    const [own, status] = tail.split(' ').map(Number)
    return { body, own, status }
  }
  const plain = await curl(broker.url('/', 'plain'))
  t.match(JSON.parse(plain.body), { remoteAddress: '127.0.0.1', remotePort: plain.own })
  for (const version of ['--http1.1', '--http2']) {
    const to = `::127.0.0.1:${broker.port('secure')}`
    const secure = await curl('https://shop.example/', '--connect-to', to, version)
    t.match(JSON.parse(secure.body), { remoteAddress: '127.0.0.1', remotePort: secure.own }, version)
  }
  const refused = await curl(broker.url('/', 'untrusting'))
  t.equal(refused.status, 400, 'from an untrusted source')
})

void t.test('fifty names on one TLS listener', { timeout: LIMIT }, async (t) => {
  const port = broker.port('names')
  const hosts = NAMES.map((name) => `${name}.shop.example`)
  const check = (client: string, services: readonly unknown[]) =>
    t.same(services, NAMES, `${client}: each name reaches its backend`)
  const serviceIn = (answer: string) => /"service":"(n\d+)"/.exec(answer)?.[1]

  const script = `
    const tls = require('tls')
    const one = (servername) => new Promise((resolve) => {
      const socket = tls.connect({ port: ${port}, host: '127.0.0.1', servername, rejectUnauthorized: false }, () =>
        socket.write('GET / HTTP/1.1\\r\\nHost: ' + servername + '\\r\\nConnection: close\\r\\n\\r\\n'))
      let answer = ''
      socket.on('data', (chunk) => (answer += chunk))
      socket.on('error', (error) => resolve(error.message))
      socket.on('end', () => resolve((/"service":"(n\\d+)"/.exec(answer) ?? [])[1]))
    })
    Promise.all(${JSON.stringify(hosts)}.map(one)).then((all) => console.log(JSON.stringify(all)))`
  const nodes: [name: string, path: string][] = [
    [`Node ${process.version}`, process.execPath],
    ...otherNodes(),
  ]
  t.comment(`with ${nodes.map(([name]) => name).join(', ')}`)
  for (const [name, path] of nodes)
    check(name, JSON.parse((await run(path, ['-e', script])).stdout) as unknown[])

  await t.test('curl', { skip: missing.curl }, async (t) => {
    const all: unknown[] = []
    for (const host of hosts) {
      const to = `::127.0.0.1:${port}`
      const { stdout } = await run('curl', [
        '-s',
        '--cacert',
        CERTIFICATE,
        '--connect-to',
        to,
        `https://${host}/`,
      ])
      all.push(serviceIn(stdout))
    }
    t.same(all, NAMES)
  })

  await t.test('openssl', { skip: missing.openssl }, async (t) => {
    const all: unknown[] = []
    for (const host of hosts) {
      const args = ['s_client', '-connect', `127.0.0.1:${port}`, '-servername', host, '-quiet', '-ign_eof']
      const client = new Program(t, 'openssl', [...args, '-CAfile', CERTIFICATE])
      client.child.stdin?.write(`GET / HTTP/1.1\r\nHost: ${host}\r\nConnection: close\r\n\r\n`)
      await client.exited
      all.push(serviceIn(client.lines.join('\n')))
    }
    t.same(all, NAMES)
  })

  await t.test('Chromium', { skip: missing.chromium }, async (t) => {
    const rules = `MAP *.shop.example 127.0.0.1:${port}`
    const browser = await Chromium.start(t, ['--ignore-certificate-errors', `--host-resolver-rules=${rules}`])
    const tab = await browser.open()
    const all: unknown[] = []
    for (const host of hosts) {
      await tab.goto(`https://${host}/`)
      all.push(serviceIn(await tab.evaluate<string>('document.body.innerText')))
    }
    t.same(all, NAMES)
  })

  await t.test('Deno', { skip: missing.deno }, async (t) => {
    const { stdout } = await run('deno', [
      'eval',
      script.replace("require('tls')", "(await import('node:tls')).default"),
    ])
    t.same(JSON.parse(stdout), NAMES)
  })
})

/** Those of the other Node lines that `npm run test:matrix` has installed. */
function otherNodes(): [name: string, path: string][] {
  const cache = join(root, '.cache/node')
  if (!existsSync(cache)) return []
  return readdirSync(cache).flatMap((version): [string, string][] => {
    const path = join(cache, version, 'node_modules', `node-linux-${process.arch}`, 'bin/node')
    return existsSync(path) ? [[`Node ${version}`, path]] : []
  })
}
