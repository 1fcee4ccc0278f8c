// node bench/memory.mjs [--seconds N] [--quick] [--peer NAME]...
//
// An app that leaks 5 MB a second, two processes of it, under 64 keep-alive connections and a stream of new ones: Baton's `maxMemory` beside
// PM2's `max_memory_restart` (cluster mode, installed once; skipped by name where it cannot be), with an app that ends itself gracefully, and
// with one that only listens. All have the same limit.
// A keep-alive connection whose response says `Connection: close` ends as HTTP allows, and is not a failure.
import { execFile, spawn } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { setTimeout } from 'node:timers/promises'
import { parseArgs, promisify } from 'node:util'
import { SpeakingChild } from '../test/programs/speaking-child.mjs'
import { pm2Command } from './installed.mjs'
import { freePort, program, temporaryFolder } from './scratch.mjs'

const run = promisify(execFile)
const APP = program('bench/leaking-app.mjs')
const LIMIT = '150M'
const PM2 = '7.0.4'
const { values } = parseArgs({
  options: {
    seconds: { type: 'string', default: '180' },
    quick: { type: 'boolean', default: false },
    peer: { type: 'string', multiple: true },
  },
})
const seconds = values.quick ? 45 : Number(values.seconds)

async function baton(port) {
  const folder = temporaryFolder()
  const file = join(folder, 'baton.json')
  const web = { command: [process.execPath, APP], instances: 2, maxMemory: LIMIT, env: { UNDER: 'baton' } }
  writeFileSync(
    file,
    JSON.stringify({
      runtimeDir: join(folder, 'run'),
      admin: { listen: `unix:${join(folder, 'admin.sock')}` },
      listeners: [{ name: 'web', listen: `127.0.0.1:${port}`, service: 'web' }],
      services: { web },
    }),
  )
  const command = program('packages/broker/bin/baton.js')
  const child = spawn(process.execPath, [command, 'start', '--config', file], {
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  let replaced = 0
  let registered = 0
  const lines = createInterface({ input: child.stdout })
  const ready = new Promise((resolve) =>
    lines.on('line', (line) => {
      const { msg } = JSON.parse(line)
      if (msg === 'backend process replaced') replaced += 1
      if (msg === 'backend registered') registered += 1
      if (registered === 2) resolve(undefined)
    }),
  )
  await ready
  return {
    replaced: () => replaced,
    stop: async () => {
      child.kill('SIGTERM')
      await once(child, 'exit')
    },
  }
}

/** @param {string} app `pm2`: it does all that PM2 recommends, and more; `plain`: it only listens */
const pm2 = (app) => async (port) => {
  const command = await pm2Command(PM2)
  const home = temporaryFolder()
  const env = { ...process.env, PM2_HOME: home, PORT: String(port), UNDER: app }
  const call = (...args) => run(command, args, { env })
  const graceful = app === 'plain' ? [] : ['--wait-ready', '--kill-timeout', '30000']
  await call('start', APP, '--name', 'app', '-i', '2', '--max-memory-restart', LIMIT, ...graceful)
  return {
    replaced: () =>
      readFileSync(join(home, 'pm2.log'), 'utf8').match(/exceeds --max-memory-restart/g)?.length ?? 0,
    stop: () => call('kill'),
  }
}

const PEERS = { Baton: baton, [`PM2 ${PM2}`]: pm2('pm2'), 'PM2, plain app': pm2('plain') }

async function measure(begin) {
  const port = await freePort()
  const { replaced, stop } = await begin(port)
  try {
    const load = new SpeakingChild(program('test/programs/two-kinds-load.mjs'), {
      args: ['--port', String(port), '--kept', '64', '--pause', '20'],
    })
    await load.message('loading')
    await setTimeout(seconds * 1000)
    load.tell('stop')
    return { replaced: await replaced(), ...(await load.message('done')) }
  } finally {
    await stop()
  }
}

console.log(
  `${seconds} s of an app with 2 instances that leaks 5 MB a second in each, limit ${LIMIT}, 64 keep-alive connections and 2 new ones at a time\n`,
)
const HEAD = ['replaced', 'requests', 'connections', 'failed', 'of kept', 'of new', 'slowest ms']
console.log(`${''.padEnd(16)}${HEAD.map((head) => head.padStart(12)).join('')}`)
let bad = 0
for (const [name, begin] of Object.entries(PEERS)) {
  if (values.peer !== undefined && !values.peer.some((peer) => name.startsWith(peer))) continue
  try {
    const { replaced, requests, connections, failures, slowest } = await measure(begin)
    const kept = failures.filter(({ kind }) => kind === 'kept').length
    const cells = [
      replaced,
      requests,
      connections,
      failures.length,
      kept,
      failures.length - kept,
      slowest.toFixed(0),
    ]
    console.log(name.padEnd(16) + cells.map((cell) => String(cell).padStart(12)).join(''))
    const kinds = new Map()
    for (const { kind, failure } of failures) {
      const what = `${kind}: ${failure}`
      kinds.set(what, (kinds.get(what) ?? 0) + 1)
    }
    for (const [what, times] of kinds) console.log(`${''.padEnd(16)}  ${times} x ${what}`)
    if (name === 'Baton') bad = failures.length + (replaced > 0 ? 0 : 1)
  } catch (error) {
    console.log(`${name.padEnd(16)}left out: ${error.message.split('\n')[0]}`)
    if (name === 'Baton') bad = 1
  }
}
process.exit(bad === 0 ? 0 : 1)
