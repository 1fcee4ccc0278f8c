import { readdirSync, readFileSync } from 'node:fs'
import t, { type Test } from 'tap'
import { startBackend } from './support/backend.ts'
import { startBroker } from './support/broker.ts'
import { eventually } from './support/eventually.ts'
import { FalseBackend, hello } from './support/false-backend.ts'
import { LIMIT } from './support/limits.ts'

/** How often all threads of a process have gone to sleep, and so have been woken up. */
function wakeUps(pid: number): number {
  let sum = 0
  for (const thread of readdirSync(`/proc/${pid}/task`)) {
    const status = readFileSync(`/proc/${pid}/task/${thread}/status`, 'utf8')
    sum += Number(/^voluntary_ctxt_switches:\s+(\d+)$/m.exec(status)?.[1])
  }
  return sum
}

/**
 * Limits of wake-ups for each heartbeat, one a second. The master has seven: it asks its worker four times whether it hangs, reads its reports (twice: io_uring
 * interrupts the wait, and rings), and checks its ring. The worker has as many, and those of the heartbeat.
 */
const MASTER = 9
const WORKER = 11

/** That of a backend: its STATS, the answer to the heartbeat, and one look whether its event loop is late. It was woken fifty times a second to see that. */
const BACKEND = 6

/** Resolves once each of these processes has slept well between two heartbeats. The false backend gets them. */
async function sleepWell(
  t: Test,
  backend: FalseBackend,
  limits: readonly (readonly [pid: number, most: number])[],
): Promise<void> {
  const beats = () => backend.wire.all('heartbeat').length
  const perBeat: number[] = []
  for (const [index, [pid, most]] of limits.entries()) {
    await eventually(
      async () => {
        const [begin, from] = [beats(), wakeUps(pid)]
        await eventually(() => beats() >= begin + 2, 'two heartbeats')
        perBeat[index] = (wakeUps(pid) - from) / (beats() - begin)
        // On a machine that is busy with other things, some of these two seconds may have more: a garbage collection, or an answer that comes later.
        return perBeat[index] <= most
      },
      () => `at most ${most} wake-ups of process ${pid} per heartbeat; the last were ${perBeat.join(', ')}`,
    )
  }
  t.comment(`wake-ups per heartbeat: ${perBeat.join(', ')}`)
}

// prom-client's monitor of the event loop woke the worker a hundred times a second, with no client at all. The master was woken up eleven times and more: also by each
// answer of its worker, by its reports one at a time, and by a timer for files on disk.
void t.test('an idle broker sleeps', { timeout: LIMIT }, async (t) => {
  const broker = await startBroker(t)
  // Its heartbeats, one a second, are the worker's own clock.
  const backend = await FalseBackend.register(t, broker.control, hello('web'))
  await sleepWell(t, backend, [
    [broker.program.pid, MASTER],
    [broker.pid, WORKER],
  ])
})

void t.test('an idle backend sleeps, also after its last client', { timeout: LIMIT }, async (t) => {
  const broker = await startBroker(t)
  const { pid } = await startBackend(t, broker)
  const answer = await fetch(broker.url(), { headers: { connection: 'close' } })
  t.equal(answer.status, 200)
  await answer.text()
  const beating = await FalseBackend.register(t, broker.control, hello('web'))
  await sleepWell(t, beating, [[pid, BACKEND]])
})
