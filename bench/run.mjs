// node bench/run.mjs [--quick] [--rounds N] [--only MEASURE,...] [--peer NAME]... [--connections N] [--no-write] [--json FILE] [--node LINE]...
//
// Baton compared with its peers: every measure in interleaved rounds, as tables with their targets. A full run writes its targets
// into docs/explanation/performance.md, and its tables into the page of its release line of Node beside it; a quick or partial run, or one
// with --no-write, only prints them. With --node, all of it runs on the newest release of that line, which is installed first.
import { writeFileSync } from 'node:fs'
import { parseArgs } from 'node:util'
import { onEachLine } from './lines.mjs'
import { MEASURES } from './measures/index.mjs'
import { PEERS, startPeers, stopPeers } from './peers/index.mjs'
import { LeftOut } from './peers/peer.mjs'
import { machine, versions } from './report/machine.mjs'
import {
  measurementsPage,
  NODE_LINE,
  PERFORMANCE,
  provenance,
  tablesPart,
  targetsPart,
  writePart,
} from './report/page.mjs'
import { endOnSignals } from './scratch.mjs'

const MIN_ROUNDS = 5
/** Seconds after which a quick run starts no further measure: it must end within a minute, and the longest takes 12 s. */
const LAST_BEGIN = 45

const { values } = parseArgs({
  options: {
    quick: { type: 'boolean', default: false },
    rounds: { type: 'string' },
    only: { type: 'string' },
    peer: { type: 'string', multiple: true },
    connections: { type: 'string' },
    'no-write': { type: 'boolean', default: false },
    json: { type: 'string' },
    node: { type: 'string', multiple: true },
  },
})
if (values.node !== undefined) process.exit(onEachLine(values.node, import.meta.url) ? 0 : 1)
const size = values.quick ? 'quick' : 'full'
const rounds = wholeNumber('rounds') ?? (values.quick ? 1 : MIN_ROUNDS)
const count = wholeNumber('connections')
const names = chosen(values.only?.split(','), Object.keys(MEASURES), 'measure')
const peerNames = chosen(values.peer, Object.keys(PEERS), 'peer')
const isWhole = [values.only, values.peer, values.connections].every((value) => value === undefined)
const isWritten = isWhole && !values.quick && !values['no-write'] && rounds >= MIN_ROUNDS

endOnSignals()

/** @type {Map<string, string>} */
const leftOut = new Map()
const leaveOut = (name, reason) => {
  leftOut.set(name, reason)
  console.error(`left out: ${name} (${reason})`)
}

const begun = performance.now()
const results = []
const shared = names.filter((name) => MEASURES[name].peers !== undefined)
const needed = new Set(shared.flatMap((name) => peersOf(MEASURES[name])))
const peers = await startPeers(
  peerNames.filter((name) => needed.has(name)),
  {},
  leaveOut,
)
for (const name of shared) await measure(name)
await stopPeers(peers)
for (const name of names) if (!shared.includes(name)) await measure(name)

// The path for the raw rounds is specific to this machine, and affects no figure.
const told = process.argv
  .slice(2)
  .filter((argument) => !/^--json(=|$)/.test(argument) && argument !== values.json)
const command = ['node', 'bench/run.mjs', ...told].join(' ')
const origin = provenance({ command, rounds, leftOut })
console.log(`${origin}\n\n## Targets\n\n${targetsPart(results)}\n\n${tablesPart(results)}`)
if (isWritten) {
  writePart(PERFORMANCE, `targets on Node ${NODE_LINE}`, targetsPart(results))
  writePart(measurementsPage(NODE_LINE), 'measured', `${origin}\n\n${tablesPart(results)}`)
}
if (values.json !== undefined) writeFileSync(values.json, `${JSON.stringify(raw(), undefined, 2)}\n`)
console.error(
  `\n${seconds()} s; ${isWritten ? `wrote ${PERFORMANCE} and ${measurementsPage(NODE_LINE)}` : 'nothing written: the page needs a full run of at least five rounds'}`,
)
process.exit()

async function measure(name) {
  if (values.quick && rounds === 1 && seconds() > LAST_BEGIN)
    return leaveOut(name, 'a quick run has no time left for it')
  console.error(`${seconds()} s: ${name}`)
  const module = MEASURES[name]
  const wanted = peersOf(module)
  try {
    const result = await module.measure({
      peers: peers.filter((peer) => wanted.includes(peer.name)),
      rounds,
      size,
      connections: count,
      isWanted: (peer) => peerNames.includes(peer),
      leaveOut: (peer, reason) => leaveOut(`${peer}, in ${name}`, reason),
    })
    results.push({ name, ...result })
  } catch (error) {
    if (!(error instanceof LeftOut)) throw error
    leaveOut(name, error.message)
  }
}

function peersOf(module) {
  return (size === 'quick' ? module.quickPeers : undefined) ?? module.peers ?? []
}

function seconds() {
  return Math.round((performance.now() - begun) / 1000)
}

function raw() {
  const measures = results.map(({ name, samples }) => [name, Object.fromEntries(samples)])
  return {
    command,
    machine: machine(),
    versions: versions(),
    leftOut: Object.fromEntries(leftOut),
    measures: Object.fromEntries(measures),
  }
}

/** @param {'rounds' | 'connections'} option */
function wholeNumber(option) {
  const text = values[option]
  if (text === undefined) return undefined
  if (!/^[1-9]\d*$/.test(text)) refuse(`--${option} is ${text}, wanted a whole number above 0`)
  return Number(text)
}

/** @param {string[] | undefined} asked @param {string[]} all @param {string} kind */
function chosen(asked, all, kind) {
  const unknown = asked?.find((name) => !all.includes(name))
  if (unknown !== undefined) refuse(`there is no ${kind} "${unknown}"; there are: ${all.join(', ')}`)
  return asked === undefined ? all : all.filter((name) => asked.includes(name))
}

/** @param {string} reason */
function refuse(reason) {
  console.error(`bench: ${reason}`)
  process.exit(2)
}
