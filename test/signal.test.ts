import { spawn } from 'node:child_process'
import { once } from 'node:events'
import t from 'tap'
import { eventually } from './support/eventually.ts'
import { LIMIT } from './support/limits.ts'
import { exists, signal, signalGroup } from './support/signal.ts'

// The function that tests send signals with. For kill(2), pid 0 is the sender's process group and -1 is every process of the
// user: `pid ?? 0` for a worker that did not exist ended the test run itself.

const NO_PIDS = [0, 1, -1, -2, Number.NaN, Number.POSITIVE_INFINITY, 1.5, undefined, null]

void t.test('anything but the pid of one process is refused, and nothing is sent', (t) => {
  const sent = t.capture(process, 'kill', () => true)
  for (const pid of NO_PIDS) {
    t.throws(() => signal(pid, 'SIGKILL'), new TypeError(`${pid} is not the pid of a process`))
    t.throws(() => signalGroup(pid, 'SIGKILL'), new TypeError(`${pid} is not the pid of a process`))
    if (typeof pid === 'number') t.throws(() => exists(pid), TypeError)
  }
  t.same(sent(), [])
  signal(4711, 'SIGHUP')
  signalGroup(4711, 'SIGINT')
  t.same(
    sent().map(({ args }) => args),
    [
      [4711, 'SIGHUP'],
      [-4711, 'SIGINT'],
    ],
  )
  t.end()
})

void t.test('a process gets its signal, and exists until it has exited', { timeout: LIMIT }, async (t) => {
  const child = spawn('sleep', ['infinity'], { detached: true })
  t.teardown(() => child.kill('SIGKILL'))
  await once(child, 'spawn')
  t.equal(exists(child.pid as number), true)
  signal(child.pid, 'SIGTERM')
  t.same(await once(child, 'exit'), [null, 'SIGTERM'])
  t.equal(exists(child.pid as number), false)
  t.throws(() => signal(child.pid, 'SIGTERM'), { code: 'ESRCH' })
})

void t.test('a group is signalled by its leader', { timeout: LIMIT }, async (t) => {
  const leader = spawn('sh', ['-c', 'sleep infinity & echo $!; wait'], { detached: true })
  await once(leader, 'spawn')
  const [line] = (await once(leader.stdout, 'data')) as [Buffer]
  const member = Number(line.toString())
  t.equal(exists(member), true)
  signalGroup(leader.pid, 'SIGKILL')
  // The pipe closes when both have closed it, on their way out.
  t.same(await once(leader, 'close'), [null, 'SIGKILL'])
  await eventually(() => !exists(member), 'the member has exited')
})
