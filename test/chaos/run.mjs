// A chaos run: one broker, backends that are killed, stopped, drained and made to misbehave, and clients of many kinds.
// Exit codes: 0 if no client saw anything that it must not, 1 if one did, 2 for wrong usage, and 3 if there is no verdict
// because the run itself failed.
//
//   npm run chaos -- --seconds 60 --seed 7 [--clients N] [--patience SECONDS] [--quick] [--write]
//
// With `--kills N` it kills instead, N times, the broker's processes as well: `kills.mjs`.
//
// Patience is the limit for everything without its own: a response, a start, an exit, the release of descriptors.
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as pause } from 'node:timers/promises'
import { Broker } from './broker.mjs'
import { describeDescriptors, descriptors, steadyDescriptors } from './descriptors.mjs'
import { Faults } from './faults.mjs'
import { Fleet } from './fleet.mjs'
import { Kills } from './kills.mjs'
import { Load } from './load.mjs'
import { readOptions } from './options.mjs'
import { report, writePage } from './report.mjs'
import { drawSchedule } from './schedule.mjs'
import { withTotals } from './totals.mjs'
import { judge } from './verdict.mjs'

const SLOTS = 4
/** Of drains, in milliseconds. */
const DEADLINE = { quick: 1500, full: 4000 }
const MAX_SHOWN = 20

const options = readOptions(process.argv.slice(2))
const { seed, seconds, quick } = options
/** In milliseconds. */
const patience = options.patience * 1000
const folder = mkdtempSync(join(tmpdir(), 'baton-chaos-'))
const amount = options.kills === undefined ? `--seconds ${seconds}` : `--kills ${options.kills}`
const again = `npm run chaos -- ${amount}${options.both ? ' --both' : ''} --seed ${seed} --clients ${options.clients}${quick ? ' --quick' : ''}`
console.log(`chaos: seed ${seed}`)
console.log(`again: ${again}`)
console.log(
  'The seed determines the faults, their times and the actions of each client, but not the scheduling of the kernel.\n',
)

const environment = cleanEnvironment()
const broker = new Broker()
let fleet
let load

/** Kills everything this run started, by pid. Synchronous, so that it can be the last thing to happen. */
function endAll() {
  fleet?.kill()
  load?.kill()
  broker.kill()
}
process.on('exit', endAll)
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) {
  process.on(signal, () => {
    console.error(`chaos: ${signal}`)
    process.exit(1)
  })
}

let failure
const violations = await run().catch((error) => {
  failure = error
  // A broker that exits by itself breaks every promise; any other error is the run's own.
  return broker.ended === undefined ? [] : [`the broker ended with ${broker.ended}`]
})
for (const text of violations.slice(0, MAX_SHOWN)) console.log(`VIOLATION ${text}`)
if (violations.length > MAX_SHOWN) console.log(`... and ${violations.length - MAX_SHOWN} more`)
if (failure !== undefined) console.log(`chaos: the run failed: ${failure.stack}`)
if (violations.length === 0 && failure === undefined) rmSync(folder, { recursive: true, force: true })
else console.log(`chaos: seed ${seed}; journals and logs are in ${folder}`)
if (violations.length > 0) console.log(`chaos: ${violations.length} violations`)
else console.log(failure === undefined ? 'chaos: no violation' : 'chaos: no verdict')
process.exit(violations.length > 0 ? 1 : failure === undefined ? 0 : 3)

async function run() {
  const areKilled = options.kills !== undefined
  await broker.start(folder, environment, options.patience, areKilled)
  const deadline = quick ? DEADLINE.quick : DEADLINE.full
  fleet = new Fleet(SLOTS, folder, {
    ...environment,
    BATON_SOCKET: broker.control,
    CHAOS_DEADLINE: String(deadline),
  })
  await fleet.start()
  await registered()
  // All backends run the same program, so this is what each must return to when it has no clients.
  if (areKilled) await reloaded()
  const atStart = {
    broker: await steadyDescriptors(broker.pid),
    backend: Math.max(...(await Promise.all(fleet.current.map(({ pid }) => steadyDescriptors(pid))))),
  }

  const began = performance.now()
  const parameters = { seed, clients: options.clients, ports: broker.ports }
  load = new Load(folder, parameters, environment, patience)
  const faults = new Faults(fleet, broker, deadline, patience)
  const kills = new Kills(options, fleet, broker, faults, patience)
  if (areKilled) await Promise.race([kills.run(options.kills), load.failed])
  else {
    const schedule = drawSchedule({ seed, seconds, slots: SLOTS, quick })
    await Promise.race([faults.run(schedule), load.failed])
    await Promise.race([pause(Math.max(0, began + seconds * 1000 - performance.now())), load.failed])
  }
  const took = (performance.now() - began) / 1000
  const summary = await load.end()

  if (areKilled) await reloaded()
  const leaks = await atRest(atStart)
  const status = areKilled ? withTotals(await broker.status(), await broker.metrics()) : await broker.status()
  const verdict = judge({
    backends: fleet.all,
    failures: load.failures,
    answers: load.answers(),
    load: summary,
    status,
    patience,
    ...(areKilled && { kills: { ...kills.times, workersEnded: broker.workersEnded } }),
  })
  verdict.violations.push(...leaks, ...fleet.surprises, ...faults.complaints)
  const text = report({
    seed,
    seconds,
    took,
    clients: load.clients,
    processes: fleet.all.length,
    load: summary,
    faults,
    kills: areKilled ? kills : undefined,
    status,
    verdict,
  })
  console.log(`${text}\n`)
  if (options.write) writePage(text)
  await endFleet()
  const end = await broker.stop(patience)
  if (end !== 0) verdict.violations.push(`the broker was told to end, and ended with ${end}`)
  return verdict.violations
}

/** Two reloads, after which a program has opened everything that it keeps open; resolves when their old workers have exited. */
async function reloaded() {
  for (let count = 0; count < 2; count++) {
    const { code } = await broker.reload().exited
    if (code !== 0) throw new Error(`baton reload ended with ${code}`)
  }
  const end = performance.now() + patience
  while ((await broker.masterStatus()).workers.length > 1) {
    if (performance.now() > end) throw new Error('an old worker does not exit')
    await pause(50)
  }
  const [{ pid }] = (await broker.masterStatus()).workers
  broker.pid = pid
  await registered()
}

/** Resolves once every slot's backend is registered for every service and eligible for new connections. */
async function registered() {
  const end = performance.now() + patience
  for (;;) {
    await fleet.whole()
    const { services } = await broker.status()
    const here = new Set(fleet.current.map(({ pid }) => pid))
    const whole = services.every(
      ({ backends }) =>
        backends.length === SLOTS && backends.every(({ pid, state }) => here.has(pid) && state === 'ready'),
    )
    if (whole) return
    if (performance.now() > end)
      throw new Error(`backends are not registered:\n${JSON.stringify(services, null, 1)}`)
    await pause(50)
  }
}

/** I6: waits until no backend has a client, and every process has as many descriptors as at the start. */
async function atRest(atStart) {
  await registered()
  const processes = [
    ['the worker', broker.pid, atStart.broker],
    ...fleet.current.map(({ instance, pid }) => [`backend ${instance}`, pid, atStart.backend]),
  ]
  const settled = ({ services }) =>
    services.every(
      ({ held, inFlight, backends }) => held + inFlight === 0 && backends.every(({ load }) => load === 0),
    )
  const end = performance.now() + patience
  for (;;) {
    const leaking = processes.filter(([, pid, count]) => descriptors(pid) !== count)
    const status = await broker.status()
    if (leaking.length === 0 && settled(status)) return []
    if (performance.now() > end) {
      const leaks = leaking.map(
        ([name, pid, count]) =>
          `I6: ${name} has ${descriptors(pid)} descriptors, had ${count}:\n  ${describeDescriptors(pid).join('\n  ')}`,
      )
      return settled(status) ? leaks : [...leaks, `I4: not at rest: ${JSON.stringify(status.services)}`]
    }
    await pause(100)
  }
}

async function endFleet() {
  fleet.kill()
  await Promise.all(fleet.all.map(({ exited }) => exited))
}

/** A test runner's loader and variables are not passed on: the children run as a user's would. */
function cleanEnvironment() {
  const foreign = /^(NODE_OPTIONS$|_TAPJS|TAP|BATON_|CHAOS_)/
  return Object.fromEntries(Object.entries(process.env).filter(([name]) => !foreign.test(name)))
}
