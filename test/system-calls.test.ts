import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { startBackend } from './support/backend.ts'
import { startBroker } from './support/broker.ts'
import { Client } from './support/client.ts'
import { LIMIT } from './support/limits.ts'
import { Program, temporaryFolder } from './support/process.ts'
import { cannotTrace } from './support/refused-calls.ts'

// The cost of a connection, counted without a clock: the system calls of the broker and of a backend for a connection that comes alone, and has
// one request. Waiting is not counted (a wake-up may find one event, or two), nor memory. Requests in the ring of io_uring count once for each
// submission. The sum over many connections is the same on an idle machine and beside six busy loops, if what happens once in a while is known by its content
// (pings, reports, heartbeats: JSON), and what happens once for each wake-up is counted beyond those: on a busy machine the steps of some connections come
// apart, and have wake-ups of their own.

/** Calls that move a connection, or bytes. */
const COUNTED =
  'accept4,close,connect,dup,dup3,epoll_ctl,fcntl,getpeername,getsockname,getsockopt,io_uring_enter,ioctl,openat,pread64,pwrite64,read,recvfrom,recvmmsg,recvmsg,sendmmsg,sendmsg,sendto,setsockopt,shutdown,socket,write,writev'

const CONNECTIONS = 100

/** Calls beyond the budget, on average: some that happen once in a while, or once more where a step has come apart. */
const SLACK = 0.3

/** Calls of one connection at most; some are made once for two that follow each other. Any other is one too many. */
type Budget = Readonly<Record<string, number>>

const BROKER: Budget = {
  // Each wake-up by the ring reads from its doorbell, submits the next wait, and writes down what has been counted.
  'wake-ups': 1,
  'io_uring_enter beyond wake-ups': 2,
  'pwrite64 beyond wake-ups': 1,
  read: 1,
  sendmmsg: 1,
  'write or writev': 1,
}

const BACKEND: Budget = {
  close: 1,
  // From Node 22 on in a ring, more than one at a time.
  'epoll_ctl or io_uring_enter': 2,
  getpeername: 1,
  getsockname: 1,
  getsockopt: 1,
  ioctl: 2,
  read: 2,
  recvmmsg: 1,
  setsockopt: 1,
  shutdown: 1,
  // The ACK, and the answer.
  'write or writev': 2,
}

interface Call {
  /** In ms since the Unix epoch. */
  readonly at: number
  readonly name: string
  /** Arguments and result. */
  readonly rest: string
}

/** Notes the calls of a process, in all of its threads. */
class Tracer {
  readonly #program: Program
  readonly #file: string

  private constructor(program: Program, file: string) {
    this.#program = program
    this.#file = file
  }

  /** Resolves when no call can be missed. */
  static async attach(t: Test, pid: number): Promise<Tracer> {
    const file = join(temporaryFolder(t), 'calls')
    const args = ['-f', '-ttt', '-p', String(pid), '-e', `trace=${COUNTED}`, '-o', file]
    const program = new Program(t, 'strace', args)
    await program.line((line) => line.includes(`Process ${pid} attached`), 'strace is attached')
    return new Tracer(program, file)
  }

  async end(): Promise<Call[]> {
    this.#program.kill('SIGINT')
    await this.#program.exited
    return parse(readFileSync(this.#file, 'utf8'))
  }
}

/** A call that another thread has interrupted has two lines: `read(21, <unfinished ...>`, and `<... read resumed>"\\1", 64) = 1`. */
function parse(text: string): Call[] {
  const calls: Call[] = []
  const unfinished = new Map<string, Call>()
  for (const line of text.split('\n')) {
    const [, thread = '', seconds, name = '', rest = ''] =
      /^(\d+) +([\d.]+) (?:<\.\.\. )?(\w+)(?:\(| resumed>)(.*)$/.exec(line) ?? []
    if (seconds === undefined) continue
    const before = unfinished.get(thread)
    unfinished.delete(thread)
    const call = { name, at: before?.at ?? Number(seconds) * 1000, rest: `${before?.rest ?? ''}${rest}` }
    if (line.includes('<unfinished')) unfinished.set(thread, call)
    else calls.push(call)
  }
  return calls
}

/** The text begins with a frame of JSON: of the channel to the master, or of the protocol with backends. */
const JSON_FRAME = /"(?:\\[0-7]{1,3}|\\.|[^\\"]){5,6}\{/

/** The doorbell is read with a buffer of this size. */
const DOORBELL = /, 64\) += \d/

/** How often each call was made, by name. */
function counted(calls: readonly Call[]): Map<string, number> {
  const counts = new Map<string, number>()
  const count = (name: string, by = 1) => counts.set(name, (counts.get(name) ?? 0) + by)
  const times = (name: string) => counts.get(name) ?? 0
  for (const { name, rest } of calls) {
    if (name === 'read' && DOORBELL.test(rest)) count('wake-ups')
    else if (JSON_FRAME.test(rest)) count(`${name} of JSON`)
    else count(name)
  }
  const rename = (name: string, as: string, less = 0) => {
    if (times(name) > 0) count(as, times(name) - less)
    counts.delete(name)
  }
  const wakeUps = times('wake-ups')
  if (wakeUps > 0) {
    for (const name of ['io_uring_enter', 'pwrite64']) rename(name, `${name} beyond wake-ups`, wakeUps)
  } else for (const name of ['io_uring_enter', 'epoll_ctl']) rename(name, 'epoll_ctl or io_uring_enter')
  for (const name of ['write', 'writev']) rename(name, 'write or writev')
  // A message of the master's wakes as well, and is followed by a look whether there is another.
  const messages = times('recvmsg of JSON')
  count('wake-ups', -messages)
  count('recvmsg', -messages)
  return new Map([...counts].filter(([name]) => !name.endsWith(' of JSON')))
}

async function oneConnection(t: Test, port: number): Promise<void> {
  const client = await Client.open(t, { host: '127.0.0.1', port })
  client.send('GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n')
  await client.answer()
  await client.ended
}

const options = { timeout: LIMIT, skip: cannotTrace }

void t.test('system calls of a connection', options, async (t) => {
  const broker = await startBroker(t)
  const { readiness } = await broker.program.message('accepting connections')
  const backend = await startBackend(t, broker)
  await broker.backends(1)
  /** @returns begin and end, in ms since the Unix epoch */
  const serve = async (count: number): Promise<[number, number]> => {
    // The clock of strace: performance.timeOrigin stays where it was when that clock is set.
    const begun = Date.now()
    for (let index = 0; index < count; index += 1) await oneConnection(t, broker.port())
    const over = Date.now() + 1
    await broker.until(({ services }) => services[0]?.inFlight === 0, 'all are settled')
    return [begun, over]
  }
  // Some happen once: lazy modules, tables that grow.
  await serve(20)
  const inBroker = await Tracer.attach(t, broker.pid)
  const inBackend = await Tracer.attach(t, backend.pid)
  const [from, to] = await serve(CONNECTIONS)
  for (const [name, all, budget] of [
    ['broker', await inBroker.end(), BROKER],
    ['backend', await inBackend.end(), BACKEND],
  ] as const) {
    if (name === 'broker' && readiness !== 'io_uring') {
      t.comment('a thread waits for this broker, with other calls')
      continue
    }
    const counts = counted(all.filter(({ at }) => at >= from && at <= to))
    for (const call of Object.keys(budget)) t.ok(counts.has(call), `${name}: ${call} was seen`)
    for (const [call, count] of counts) {
      const most = budget[call] ?? 0
      const each = count / CONNECTIONS
      t.ok(each <= most + SLACK, `${name}: ${each} ${call} for each connection, at most ${most}`)
    }
  }
})
