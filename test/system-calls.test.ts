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
// submission. What happens every second besides (heartbeats, reports to the master) falls on some of the connections, and on a busy machine the steps
// of most come apart, so that each has a wake-up of its own. So the cheapest tenth counts: those had the processes for themselves.

/** Calls that move a connection, or bytes. */
const COUNTED =
  'accept4,close,connect,dup,dup3,epoll_ctl,fcntl,getpeername,getsockname,getsockopt,io_uring_enter,ioctl,openat,pread64,pwrite64,read,recvfrom,recvmmsg,recvmsg,sendmmsg,sendmsg,sendto,setsockopt,shutdown,socket,write,writev'

const CONNECTIONS = 101
/** The cheapest tenth of the connections counts. */
const SHARE = 10

interface Call {
  /** In ms since the Unix epoch. */
  readonly at: number
  readonly name: string
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
    return readFileSync(this.#file, 'utf8')
      .split('\n')
      .flatMap((line) => {
        // A call that another thread has interrupted has a second line, `<... read resumed>`.
        const [, seconds, name] = /^\d+ +([\d.]+) (\w+)\(/.exec(line) ?? []
        return seconds === undefined || name === undefined ? [] : [{ at: Number(seconds) * 1000, name }]
      })
  }
}

async function oneConnection(t: Test, port: number): Promise<void> {
  const client = await Client.open(t, { host: '127.0.0.1', port })
  client.send('GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n')
  await client.answer()
  await client.ended
}

/** The calls between each time and the next. */
function between(calls: readonly Call[], times: readonly number[]): string[][] {
  return times
    .slice(0, -1)
    .map((from, index) =>
      calls.filter(({ at }) => at >= from && at < (times[index + 1] as number)).map(({ name }) => name),
    )
}

const options = { timeout: LIMIT, skip: cannotTrace }

void t.test('system calls of a connection', options, async (t) => {
  const broker = await startBroker(t)
  const backend = await startBackend(t, broker)
  await broker.backends(1)
  const serve = async (count: number) => {
    const begun: number[] = []
    for (let index = 0; index < count; index += 1) {
      begun.push(performance.timeOrigin + performance.now())
      await oneConnection(t, broker.port())
    }
    await broker.until(({ services }) => services[0]?.inFlight === 0, 'all are settled')
    return begun
  }
  // Some happen once: lazy modules, tables that grow.
  await serve(20)
  const inBroker = await Tracer.attach(t, broker.pid)
  const inBackend = await Tracer.attach(t, backend.pid)
  const times = await serve(CONNECTIONS)
  for (const [name, calls, most] of [
    ['broker', await inBroker.end(), 10],
    ['backend', await inBackend.end(), 16],
  ] as const) {
    const [cheap = []] = between(calls, times)
      .toSorted((a, b) => a.length - b.length)
      .slice(CONNECTIONS / SHARE)
    t.ok(cheap.length > 3, `${name}: calls were seen`)
    t.ok(cheap.length <= most, `${name}: ${cheap.length} calls, at most ${most}: ${cheap.join(' ')}`)
  }
})
