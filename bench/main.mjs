// `npm run bench -- NAME [ARGUMENT]...`: builds, and runs one of the measurements. Without a name it lists them.
import { spawn } from 'node:child_process'
import { program } from './scratch.mjs'

const BENCHES = {
  compare: {
    file: 'run.mjs',
    measures: 'Baton and its peers: throughput, CPU time, latency, memory',
  },
  adoption: { measures: 'creating a socket from a descriptor in the SDK' },
  copies: { measures: "the master's copies of waiting connections" },
  'deploy-time': {
    file: 'outlive/deploy-time.mjs',
    measures: 'a deploy with 1,000 clients, beside one without',
  },
  deploy: { measures: 'rolling deploys under load, beside cluster and PM2' },
  endurance: { measures: '10 million connections through one worker: memory and descriptors' },
  hold: { measures: "the broker's memory per held client" },
  kept: { file: 'outlive/kept.mjs', measures: 'TCP connections that clients open over 200 deploys' },
  'kill-moves': {
    file: 'outlive/kill-moves.mjs',
    measures: 'SIGKILL of each process while connections move',
  },
  kill: { measures: 'what SIGKILL of a backend costs clients' },
  limits: {
    measures: 'clients of a listener with limits, while one address opens 2,000 connections a second',
  },
  'master-death': { measures: 'SIGKILL of the master and `baton start`, under load' },
  memory: { measures: 'a leaking app under load, beside PM2' },
  module: { file: 'module-cost.mjs', measures: 'what loading a module costs a start' },
  'move-cost': { file: 'outlive/move-cost.mjs', measures: 'CPU time of a move, on Node 20 and 24' },
  outlive: {
    file: 'outlive/outlive.mjs',
    measures: '1,000 deploys of a chat and an API, every message counted',
  },
  parked: { file: 'outlive/parked.mjs', measures: 'memory and first byte of a parked connection' },
  'parked-balance': {
    file: 'outlive/parked-balance.mjs',
    measures: 'requests of each backend with parkAfter 0ms, beside HAProxy',
  },
  recorder: {
    measures: 'time, garbage and memory of the flight recorder',
    // Its garbage is measured between collections, so none may come by itself.
    node: ['--expose-gc', '--min-semi-space-size=256', '--max-semi-space-size=256'],
  },
  reload: { measures: 'reloads under load' },
  routes: { measures: 'routes by name and by host, beside none, and beside HAProxy' },
  soak: { measures: 'requests while the broker is reloaded, deployed and killed, for hours' },
  start: { measures: 'commands, starts and reloads, beside bare Node and an older build' },
  stuck: { measures: 'the longest wait while a backend is in a busy loop, beside cluster' },
  'waiting-death': { measures: 'SIGKILL of the worker with thousands of clients that wait in it' },
  'worker-death': { measures: 'SIGKILL of the worker under load' },
  'worker-gap': { measures: 'how long new clients wait after a SIGKILL of the worker' },
}

const [name, ...args] = process.argv.slice(2)
if (name === undefined || name === '--help') {
  console.log(
    'usage: npm run bench -- NAME [--quick] [OPTION]...\n\nName            Measures (bench/README.md has the options)',
  )
  for (const [each, { measures }] of Object.entries(BENCHES)) console.log(`${each.padEnd(16)}${measures}`)
} else if (Object.hasOwn(BENCHES, name)) {
  await import('../scripts/build.mjs')
  const { file = `${name}.mjs`, node = [] } = BENCHES[name]
  const child = spawn(process.execPath, [...node, program(`bench/${file}`), ...args], { stdio: 'inherit' })
  // The measurement cleans up and ends. A terminal signals it directly, and a second signal would interrupt that.
  for (const signal of ['SIGHUP', 'SIGINT']) process.on(signal, () => undefined)
  process.on('SIGTERM', () => void child.kill('SIGTERM'))
  child.once('exit', (code, signal) => {
    process.exitCode = code ?? 1
    if (signal !== null) console.error(`bench: ${name} was ended by ${signal}`)
  })
} else {
  console.error(`bench: there is no measurement "${name}"; there are: ${Object.keys(BENCHES).join(', ')}`)
  process.exitCode = 2
}
