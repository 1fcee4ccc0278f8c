// node bench/outlive/outlive.mjs [--deploys 1000] [--chats 1000] [--apis 1000] [--instances 2] [--rate 1000] [--resume FILE] [--quick]
//
// Rolling deploys, one after the other, of a chat over WebSockets and an API over kept HTTP connections, whose clients send at random
// moments, --rate messages a second together. Exits with 1 if a client had to connect again, a request failed, or a message was lost,
// doubled, reordered or changed, in either direction.
//
// Ctrl-C ends it after the deploy in progress. With --resume the totals are kept in a file, every 20 deploys, and the next run continues them.
import { existsSync, readFileSync, renameSync, writeFileSync } from 'node:fs'
import { parseArgs } from 'node:util'
import { SpeakingChild } from '../../test/programs/speaking-child.mjs'
import { program } from '../scratch.mjs'
import { OWN_SESSION, startDeployed, unaccounted } from './deployed.mjs'
import { Histogram } from './histogram.mjs'
import { Totals } from './totals.mjs'

const { values } = parseArgs({
  options: {
    deploys: { type: 'string' },
    chats: { type: 'string' },
    apis: { type: 'string' },
    instances: { type: 'string' },
    rate: { type: 'string' },
    resume: { type: 'string' },
    quick: { type: 'boolean', default: false },
  },
})
const [deploys, chats, apis, instances, rate] = [
  values.deploys ?? (values.quick ? 10 : 1000),
  values.chats ?? (values.quick ? 50 : 1000),
  values.apis ?? (values.quick ? 50 : 1000),
  values.instances ?? (values.quick ? 1 : 2),
  values.rate ?? (values.quick ? 500 : 1000),
].map(Number)
/** Deploys between two moments at which everything is answered, and the totals are saved. */
const LEG = 20
const SERVICES = ['chat', 'api']

const sums = {
  deploys: 0,
  seconds: 0,
  runs: 0,
  chat: new Totals(),
  api: new Totals(),
  deploy: new Histogram(),
}
const broken = []
if (values.resume !== undefined && existsSync(values.resume)) {
  const saved = JSON.parse(readFileSync(values.resume, 'utf8'))
  for (const key of ['deploys', 'seconds', 'runs']) sums[key] = saved[key]
  for (const name of SERVICES) sums[name].addSaved(saved[name])
  sums.deploy.addSaved(saved.deploy)
  broken.push(...saved.broken)
  console.log(`continues after ${sums.deploys} deploys`)
}
sums.runs += 1

const interrupted = new AbortController()
// A terminal signals its whole group: broker and clients are in sessions of their own, and end when this process says so.
for (const signal of ['SIGINT', 'SIGTERM']) process.on(signal, () => interrupted.abort())

const app = await startDeployed({
  services: SERVICES,
  instances,
  pushes: Math.ceil(rate / 4),
  // On a machine that is too busy to acknowledge in half a second, a new client would be relayed, and such a connection does not move.
  service: { ackDeadline: '5m', tokenTtl: '10m' },
})
const load = new SpeakingChild(program('bench/outlive/clients.mjs'), {
  args: [
    '--chat-port',
    app.ports.chat,
    '--api-port',
    app.ports.api,
    '--chats',
    chats,
    '--apis',
    apis,
    '--rate',
    rate,
  ].map(String),
  wrapper: OWN_SESSION,
})
const { missing } = await load.message('connected')
if (missing > 0) broken.push(`${missing} clients could not connect`)

/** Of this run: what the apps must have handled in the end. */
const sent = { chat: 0, api: 0 }
while (sums.deploys < deploys && !interrupted.signal.aborted) {
  const begun = performance.now()
  load.tell('go')
  for (let left = Math.min(LEG, deploys - sums.deploys); left > 0 && !interrupted.signal.aborted; left--) {
    for (const name of SERVICES) sums.deploy.add(1000 * (await app.deploy(name)))
    sums.deploys += 1
  }
  load.tell('rest')
  const counted = await load.message('counted')
  for (const name of SERVICES) {
    sums[name].addSaved(counted[name])
    sent[name] += counted[name].sent
    sums[name].lost += counted[name].unanswered
  }
  sums.seconds += (performance.now() - begun) / 1000
  save()
  if (sums.deploys % 100 === 0) console.error(`${sums.deploys} deploys, ${sums.seconds.toFixed(0)} s`)
}
const missed = unaccounted(await app.status())
const pauses = await app.metrics()
load.tell('end')
await load.exited
await app.stop()

if (missed !== 0) broken.push(`${missed} connections are not accounted for by the broker`)
const handled = { chat: app.handled('chat').messages, api: app.handled('api').requests }
for (const name of SERVICES)
  if (handled[name] !== sent[name])
    broken.push(`the ${name} has handled ${handled[name]} of ${sent[name]} messages of run ${sums.runs}`)
save()
report()

function save() {
  if (values.resume === undefined) return
  const beside = `${values.resume}.new`
  writeFileSync(beside, JSON.stringify({ ...sums, broken }))
  renameSync(beside, values.resume)
}

/** Milliseconds: p50, p99, maximum. @param {Histogram} histogram */
function spread(histogram) {
  return [0.5, 0.99, 1].map((share) => (histogram.quantile(share) / 1000).toFixed(1)).join(' / ')
}

function row(name, ...cells) {
  console.log(name.padEnd(56) + cells.map((cell) => String(cell).padStart(22)).join(''))
}

function report() {
  const { chat, api, deploy } = sums
  const runs = sums.runs === 1 ? '' : `, in ${sums.runs} runs`
  console.log(
    `${sums.deploys} deploys of each service in ${sums.seconds.toFixed(0)} s${runs}, ${instances} instances\n`,
  )
  row('', 'chat (WebSocket)', 'API (HTTP)')
  row('clients', chats, apis)
  for (const [name, key] of Object.entries({
    'messages or requests sent': 'sent',
    answered: 'answered',
    'messages sent by the server unasked': 'pushed',
    'moves that clients have noticed': 'moves',
    'clients that had to connect again': 'ended',
    failed: 'failed',
    'answered with Connection: close': 'announced',
    'lost, in either direction': 'lost',
    'without an answer when their connection ended': 'cut',
    doubled: 'doubled',
    reordered: 'reordered',
    'wrong content': 'wrong',
    'served by two processes at a time': 'twoOwners',
  }))
    row(name, chat[key], api[key])
  row('pause of a move, ms: p50 / p99 / max', spread(chat.pause), '')
  row('the first answer after a move, ms: p50 / p99 / max', '', spread(api.pause))
  row('all answers, ms: p50 / p99 / max', spread(chat.latency), spread(api.latency))
  row('time of a deploy, ms: p50 / p99 / max', spread(deploy))
  const means = ['replay', 'idle'].map((kind, index) => {
    const of = (part) =>
      Number(
        new RegExp(
          `^baton_handback_pause_seconds_${part}\\{service="${SERVICES[index]}",kind="${kind}"\\} (\\S+)$`,
          'm',
        ).exec(pauses)?.[1] ?? 0,
      )
    return `${((1000 * of('sum')) / Math.max(1, of('count'))).toFixed(2)} of ${of('count')}`
  })
  row('pause as counted by the broker in this run, ms: mean', ...means)
  for (const name of SERVICES) {
    for (const key of [
      'ended',
      'failed',
      'announced',
      'lost',
      'cut',
      'doubled',
      'reordered',
      'wrong',
      'twoOwners',
    ])
      if (sums[name][key] > 0) broken.push(`${name}: ${sums[name][key]} ${key}`)
    broken.push(...sums[name].faults.map((words) => `${name}: ${words}`))
  }
  console.log(broken.length === 0 ? '\nno rule was broken' : `\n${broken.join('\n')}`)
  process.exit(broken.length === 0 ? 0 : 1)
}
