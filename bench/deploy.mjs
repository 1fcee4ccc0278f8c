// node bench/deploy.mjs [--deploys N] [--quick] [--peer NAME]...
//
// Rolling deploys of the same Fastify app, back to back, under 64 keep-alive connections and a stream of new ones: under
// Baton, Node's `cluster`, and PM2 (installed once; skipped by name where it cannot be).
// A keep-alive connection whose response says `Connection: close` ends as HTTP allows, and is not a failure.
import { execFile, spawn } from 'node:child_process'
import { once } from 'node:events'
import { readdirSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { parseArgs, promisify } from 'node:util'
import { SpeakingChild } from '../test/programs/speaking-child.mjs'
import { pm2Command } from './installed.mjs'
import { freePort, program, temporaryFolder } from './scratch.mjs'

const run = promisify(execFile)
const APP = program('bench/fastify-app.mjs')
const { values } = parseArgs({
  options: {
    deploys: { type: 'string', default: '50' },
    quick: { type: 'boolean', default: false },
    peer: { type: 'string', multiple: true },
  },
})
const deploys = values.quick ? 3 : Number(values.deploys)

async function baton(port) {
  const command = program('packages/broker/bin/baton.js')
  const before = new Set(readdirSync(tmpdir()))
  const child = spawn(process.execPath, [command, 'run', '-i', '2', '--', process.execPath, APP], {
    env: { ...process.env, PORT: String(port) },
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  let registered = 0
  for await (const line of createInterface({ input: child.stdout })) {
    if (line.startsWith('backend registered')) registered += 1
    if (registered === 2) break
  }
  child.stdout.resume()
  const folder = readdirSync(tmpdir()).find((name) => name.startsWith('baton-run-') && !before.has(name))
  const config = join(tmpdir(), folder, 'baton.json')
  return {
    deploy: () => run(process.execPath, [command, 'deploy', 'app', '--config', config]),
    stop: async () => {
      child.kill('SIGTERM')
      await once(child, 'exit')
    },
  }
}

async function cluster(port) {
  const child = new SpeakingChild(program('bench/cluster-restart.mjs'), {
    args: [APP],
    env: { PORT: String(port) },
  })
  await child.message('listening')
  return {
    deploy: async () => {
      child.tell('deploy')
      await child.message('deployed')
    },
    stop: async () => {
      child.kill('SIGTERM')
      await child.exited
    },
  }
}

async function pm2(port) {
  const command = await pm2Command()
  const env = { ...process.env, PM2_HOME: temporaryFolder(), PORT: String(port) }
  const call = (...args) => run(command, args, { env })
  await call('start', APP, '--name', 'app', '-i', '2', '--wait-ready', '--kill-timeout', '10000')
  return {
    deploy: () => call('reload', 'app'),
    stop: () => call('kill'),
  }
}

const PEERS = { Baton: baton, cluster, PM2: pm2 }

async function measure(begin) {
  const port = await freePort()
  const { deploy, stop } = await begin(port)
  try {
    return await measureUnderLoad(port, deploy)
  } finally {
    await stop()
  }
}

async function measureUnderLoad(port, deploy) {
  const load = new SpeakingChild(program('test/programs/two-kinds-load.mjs'), {
    args: ['--port', String(port), '--kept', '64'],
  })
  await load.message('loading')
  const start = performance.now()
  for (let count = 0; count < deploys; count++) await deploy()
  const seconds = (performance.now() - start) / 1000
  load.tell('stop')
  const done = await load.message('done')
  return { seconds, ...done }
}

console.log(
  `${deploys} rolling deploys of a Fastify app with 2 instances, 64 keep-alive connections and 2 new ones at a time\n`,
)
console.log(
  `${''.padEnd(10)}${['deploys/s', 'requests', 'connections', 'failed', 'of kept', 'of new', 'slowest ms'].map((head) => head.padStart(12)).join('')}`,
)
let bad = 0
for (const [name, begin] of Object.entries(PEERS)) {
  if (values.peer !== undefined && !values.peer.includes(name)) continue
  try {
    const { seconds, requests, connections, failures, slowest } = await measure(begin)
    const kept = failures.filter(({ kind }) => kind === 'kept').length
    const cells = [
      (deploys / seconds).toFixed(2),
      requests,
      connections,
      failures.length,
      kept,
      failures.length - kept,
      slowest.toFixed(0),
    ]
    console.log(name.padEnd(10) + cells.map((cell) => String(cell).padStart(12)).join(''))
    const kinds = new Map()
    for (const { kind, failure } of failures) {
      const what = `${kind}: ${failure}`
      kinds.set(what, (kinds.get(what) ?? 0) + 1)
    }
    for (const [what, times] of kinds) console.log(`${''.padEnd(10)}  ${times} x ${what}`)
    if (name === 'Baton') bad = failures.length
  } catch (error) {
    console.log(`${name.padEnd(10)}left out: ${error.message.split('\n')[0]}`)
    if (name === 'Baton') bad = 1
  }
}
process.exit(bad === 0 ? 0 : 1)
