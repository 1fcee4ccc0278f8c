import { readdirSync, readFileSync } from 'node:fs'
import t from 'tap'
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

// prom-client's monitor of the event loop woke the worker a hundred times a second, with no client at all.
void t.test('an idle broker sleeps', { timeout: LIMIT }, async (t) => {
  const broker = await startBroker(t)
  // Its heartbeats, one a second, are the worker's own clock.
  const backend = await FalseBackend.register(t, broker.control, hello('web'))
  const beats = () => backend.wire.all('heartbeat').length
  const perBeat: number[] = []
  for (const [index, pid] of [broker.program.pid, broker.pid].entries()) {
    await eventually(
      async () => {
        const [begin, from] = [beats(), wakeUps(pid)]
        await eventually(() => beats() >= begin + 2, 'two heartbeats')
        perBeat[index] = (wakeUps(pid) - from) / (beats() - begin)
        // About ten, with what the heartbeat itself wakes. A machine that is busy with other things may show the worker as busy.
        return perBeat[index] < 50
      },
      () => `at most 50 wake-ups of process ${pid} per heartbeat; the last were ${perBeat.join(', ')}`,
    )
  }
  t.comment(`wake-ups per heartbeat of master and worker: ${perBeat.join(', ')}`)
})
