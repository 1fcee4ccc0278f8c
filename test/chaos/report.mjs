import { readFileSync, writeFileSync } from 'node:fs'
import { release } from 'node:os'
import { join } from 'node:path'
import { FAULT_KINDS } from './schedule.mjs'

const page = join(import.meta.dirname, '../../docs/explanation/reliability.md')
const BEGIN = '<!-- chaos: begin -->'
const END = '<!-- chaos: end -->'

/** The tables of one run, as Markdown that is readable in a terminal too. */
export function report({ seed, seconds, took, clients, processes, load, faults, kills, status, verdict }) {
  const kinds = Object.entries(load.kinds).toSorted(([a], [b]) => (a < b ? -1 : 1))
  const requests = kinds.reduce((sum, [, counts]) => sum + counts.requests, 0)
  const outcome = (name) => status.services.map(({ outcomes }) => outcomes[name])
  return [
    `Seed ${seed}, ${kills === undefined ? seconds : Math.round(took)} s of load, ${clients} clients, Node ${process.versions.node}, Linux ${release()}.`,
    `${requests} requests (${Math.round(requests / took)} each second) on ${load.connected} connections, ${processes} backend processes.`,
    '',
    ...table(
      ['clients', 'requests', 'answered', 'failed', 'slowest answer'],
      kinds.map(([kind, { requests, answered, failed, slowest }]) => [
        kind,
        requests,
        answered,
        failed,
        `${Math.round(slowest)} ms`,
      ]),
    ),
    '',
    ...(kills === undefined ? faultTable(faults) : killTable(kills)),
    '',
    ...table(
      ['outcome', ...status.services.map(({ name }) => name)],
      Object.keys(status.services[0].outcomes).map((name) => [name, ...outcome(name)]),
    ),
    '',
    ...table(
      ['allowed failures of clients', 'times'],
      [
        ...Object.entries(verdict.allowed),
        ['relay ACKed too late, offered again before a byte was read', verdict.crossedRelays],
        ['**violations**', verdict.violations.length],
      ],
    ),
  ].join('\n')
}

/** Writes the tables between the markers of the page. */
export function writePage(text) {
  const before = readFileSync(page, 'utf8')
  const [begin, end] = [before.indexOf(BEGIN), before.indexOf(END)]
  if (begin === -1 || end < begin) throw new Error(`${page} has no markers ${BEGIN} ${END}`)
  writeFileSync(page, `${before.slice(0, begin + BEGIN.length)}\n\n${text}\n\n${before.slice(end)}`)
}

function faultTable({ done, missed }) {
  return table(
    ['fault', 'times'],
    [...FAULT_KINDS.map((kind) => [kind, done[kind] ?? 0]), ['victim was starting or leaving', missed]],
  )
}

function killTable({ done, processes, reloads, restarts }) {
  return table(
    ['killed', 'times'],
    [
      ...Object.entries(done).toSorted(([a], [b]) => (a < b ? -1 : 1)),
      ['processes killed, in all', processes],
      ['reloads that succeeded', reloads.done],
      ['reloads that failed or lost their master', reloads.refused],
      ['restarts of a backend', restarts],
    ],
  )
}

function table(head, rows) {
  const line = (cells) => `| ${cells.join(' | ')} |`
  return [line(head), line(head.map((_, index) => (index === 0 ? '---' : '---:'))), ...rows.map(line)]
}
