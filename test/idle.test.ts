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

/** Each process hardly wakes up between two heartbeats of the broker, which `beats` counts: the worker’s own clock, one a second. */
async function sleeps(t: Test, pids: readonly number[], beats: () => number): Promise<void> {
  const perBeat: number[] = []
  for (const [index, pid] of pids.entries()) {
    await eventually(
      async () => {
        const [begin, from] = [beats(), wakeUps(pid)]
        await eventually(() => beats() >= begin + 2, 'two heartbeats')
        perBeat[index] = (wakeUps(pid) - from) / (beats() - begin)
        // About ten, with what the heartbeat itself wakes. A machine that is busy with other things may show a process as busy.
        return perBeat[index] < 30
      },
      () => `at most 30 wake-ups of process ${pid} per heartbeat; the last were ${perBeat.join(', ')}`,
    )
  }
  t.comment(`wake-ups per heartbeat: ${perBeat.join(', ')}`)
}

// prom-client's monitor of the event loop woke the worker a hundred times a second, with no client at all.
void t.test('an idle broker sleeps', { timeout: LIMIT }, async (t) => {
  const broker = await startBroker(t)
  const backend = await FalseBackend.register(t, broker.control, hello('web'))
  await sleeps(t, [broker.program.pid, broker.pid], () => backend.wire.all('heartbeat').length)
})

// The SDK's monitor of the event loop woke each app fifty times a second.
void t.test('an idle app sleeps', { timeout: LIMIT }, async (t) => {
  const broker = await startBroker(t)
  const app = await startBackend(t, broker)
  const clock = await FalseBackend.register(t, broker.control, hello('web'))
  await sleeps(t, [app.pid], () => clock.wire.all('heartbeat').length)
})
