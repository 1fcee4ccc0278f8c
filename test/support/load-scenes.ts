import { join } from 'node:path'
import type { Test } from 'tap'
import { eventually } from './eventually.ts'
import { startLoad, sum } from './load.ts'
import { openDescriptors } from './proc.ts'
import { Program, root } from './process.ts'
import type { Service, ServiceState } from './service.ts'

// Two backends under load, and faults of one of them. `test/lifecycle.test.ts` runs the scenes with few connections,
// `test/long/lifecycle-load.test.ts` with many. The service is `web`, and its ACK deadline expires only for a stopped backend.

/**
 * The broker's own descriptors; those of status requests come and go. Without parked connections: a backend that joins can make others hand idle
 * ones back at any time.
 */
export async function descriptorsOf(service: Service): Promise<number> {
  const { broker } = service
  const { parked } = await service.state()
  return openDescriptors(broker.pid, Number(new URL(broker.admin).port)) - parked
}

/**
 * The count before a scene begins. A client may get its response before the broker has read the ACK and closed its own copy, so
 * a response does not mean that the broker is at rest.
 */
export async function restingDescriptors(service: Service): Promise<number> {
  await service.broker.until(
    ({ services }) =>
      services.every(
        ({ name, held, inFlight, backends }) =>
          held + inFlight === 0 &&
          (name === service.name ? backends.every(({ load }) => load === 0) : backends.length === 0),
      ),
    'nothing in flight, no client left, and the other scenes are over',
  )
  return descriptorsOf(service)
}

export async function descriptorsAre(service: Service, count: number): Promise<void> {
  let last = Number.NaN
  await eventually(
    async () => {
      last = await descriptorsOf(service)
      return last === count
    },
    () => `${count} descriptors of the broker; there are ${last}`,
  )
}

export function ackTimeouts(service: Service): Promise<number> {
  return service.metric('baton_handoff_failures_total', 'reason="BackendAckTimeout"')
}

/** Outcomes counted since `before`. */
export function outcomesSince(before: ServiceState, now: ServiceState): ServiceState['outcomes'] {
  const { outcomes } = before
  const entries = Object.entries(now.outcomes) as [keyof typeof outcomes, number][]
  return Object.fromEntries(
    entries.map(([name, count]) => [name, count - outcomes[name]]),
  ) as ServiceState['outcomes']
}

export async function killUnderLoad(
  t: Test,
  web: Service,
  [doomed, survivor]: readonly [Program, Program],
  total: number,
): Promise<void> {
  const descriptors = await restingDescriptors(web)
  const before = await web.state()
  const load = startLoad(t, web.broker, { total, concurrency: 64, path: '/slow?ms=10' })
  await web.until((state) => outcomesSince(before, state).handed_off > total / 4, 'the load is under way')
  doomed.kill('SIGKILL')
  const { answers, failures } = await load
  t.comment(`failures: ${JSON.stringify(failures)}`)

  const after = await web.until(({ held, inFlight }) => held + inFlight === 0, 'nothing in flight')
  t.equal(after.unaccounted, 0)
  const outcomes = outcomesSince(before, after)
  t.match(outcomes, {
    handed_off: total + handedBackSince(before, after) - outcomes.idle_closed,
    relayed: 0,
    rejected: 0,
    client_gone: 0,
    relinquished: 0,
  })
  t.same(
    after.backends.map(({ pid }) => pid),
    [survivor.pid],
  )
  const [took, kept] = [adoptedBy, keptBy].map((by) => by(survivor, after) - by(survivor, before))
  const answered = answers[survivor.pid] ?? 0
  t.ok(
    answered >= Number(kept) && answered <= Number(took),
    `the survivor took ${took} and kept ${kept}, which were all answered; it answered ${answered}`,
  )
  t.equal(sum(answers) + sum(failures), total)
  t.ok(sum(failures) <= 64, 'at most the requests in flight in the dead backend were lost')
  t.ok((answers[doomed.pid] ?? 0) > 0)
  await web.start(t)
  await web.backends(2)
  await descriptorsAre(web, descriptors)
  t.pass('the broker has as many descriptors as before')
}

/** @param load concurrent new connections, the pause of each before its next one, and the number between stops */
export async function stopUnderLoad(
  t: Test,
  web: Service,
  [stopped, other]: readonly [Program, Program],
  load: { fresh: number; pause: number; apart: number },
): Promise<void> {
  const descriptors = [await restingDescriptors(web), openDescriptors(stopped.pid)]
  const before = await web.state()
  const args = `--port ${web.port} --kept 0 --fresh ${load.fresh} --pause ${load.pause}`.split(' ')
  const clients = new Program(t, process.execPath, [join(root, 'test/programs/two-kinds-load.mjs'), ...args])
  for (let round = 1; round <= 3; round++) {
    const late = await ackTimeouts(web)
    await web.until(
      (state) => outcomesSince(before, state).handed_off > round * load.apart,
      'the load is under way',
    )
    stopped.kill('SIGSTOP')
    await eventually(async () => (await ackTimeouts(web)) > late, 'some were queued to the stopped backend')
    await web.until(
      ({ backends }) => backends.find(({ pid }) => pid === stopped.pid)?.state === 'unresponsive',
      'it is noticed',
    )
    stopped.kill('SIGCONT')
    await web.backends(2)
  }
  clients.say('stop')
  const { connections: opened, requests, failures } = await clients.message('done')
  const connections = Number(opened)
  t.same(failures, [])
  t.equal(requests, connections)
  const after = await web.until(
    ({ backends }) => backends.every(({ load }) => load === 0),
    'everything has closed',
  )
  const kept = (program: Program) => keptBy(program, after) - keptBy(program, before)
  t.ok(kept(stopped) > 0 && kept(other) > 0)
  const outcomes = outcomesSince(before, after)
  t.equal(kept(stopped) + kept(other), connections - outcomes.idle_closed)
  let left: number[] = []
  await eventually(
    async () => {
      left = [await descriptorsOf(web), openDescriptors(stopped.pid)]
      return left.join(' ') === descriptors.join(' ')
    },
    () => `as many descriptors as before, ${descriptors.join(' and ')}; there are ${left.join(' and ')}`,
  )
  t.pass('and nothing is left open')
  t.equal(after.unaccounted, 0)
  t.match(outcomes, {
    handed_off: connections + handedBackSince(before, after) - outcomes.idle_closed,
    relayed: 0,
    relinquished: 0,
    rejected: 0,
    client_gone: 0,
  })
}

/**
 * Connections that were idle, before their request or after its answer, when the broker wanted them elsewhere because one backend had more
 * than its share. Each is handed off once more, or its client leaves while it is parked (`idle_closed`).
 */
function handedBackSince(before: ServiceState, now: ServiceState): number {
  return now.handedBack - before.handedBack
}

function adoptedBy({ pid }: Program, { backends }: ServiceState): number {
  return backends.find((backend) => backend.pid === pid)?.adopted ?? Number.NaN
}

/** Adopted, and not handed back. */
function keptBy({ pid }: Program, { backends }: ServiceState): number {
  const backend = backends.find((each) => each.pid === pid)
  return backend === undefined ? Number.NaN : backend.adopted - backend.handedBack
}
