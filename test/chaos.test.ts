import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { judge } from './chaos/verdict.mjs'
import { LIMIT, SOON } from './support/limits.ts'
import { Program, root, temporaryFolder } from './support/process.ts'

/** Draws each kind of fault once except `kill all`, which only test/long/chaos.test.ts covers. */
const SEED = 161

void t.test(
  'chaos: clients of all kinds while backends are killed, stopped, drained and misbehave',
  { timeout: LIMIT },
  async (t) => {
    const patience = Math.ceil(SOON / 1000)
    const args = [
      '--seconds',
      '3',
      '--seed',
      `${SEED}`,
      '--clients',
      '40',
      '--patience',
      `${patience}`,
      '--quick',
    ]
    const run = new Program(t, process.execPath, [join(root, 'test/chaos/run.mjs'), ...args])
    const { code } = await run.exited
    for (const line of run.lines) t.comment(line)
    t.equal(code, 0, `no violation with seed ${SEED}`)
    t.match(run.lines.at(-1), /no violation$/)
    t.match(run.lines.join('\n'), /^\| short \| [1-9]\d+ \|/m, 'there was load')
  },
)

void t.test('chaos: wrong usage is told apart from a violation', { timeout: LIMIT }, async (t) => {
  const run = new Program(t, process.execPath, [join(root, 'test/chaos/run.mjs'), '--seconds', 'many'])
  t.match(await run.exited, { code: 2 })
  t.match(run.lines, [/many is not a whole number/, /^usage: npm run chaos/])
})

/**
 * Verdict on one relayed client on port 7, reset at 50 ms, from the journals of two backends; the first was killed at `killedAt`, a worker of the broker at
 * each of `workersKilled`.
 */
function verdictOn(
  t: Test,
  journals: readonly [string[], string[]],
  killedAt: number | undefined,
  workersKilled: readonly number[] = [],
  handedOff = 0,
) {
  const folder = temporaryFolder(t)
  const backends = journals.map((lines, index) => {
    const journalPath = join(folder, String(index + 1))
    writeFileSync(journalPath, lines.map((line) => `${line}\n`).join(''))
    return {
      instance: index + 1,
      pid: index + 1,
      journalPath,
      alive: index === 1,
      ...(index === 0 && { killedAt }),
    }
  })
  const outcomes = { handed_off: handedOff, relayed: 1, rejected: 0, client_gone: 0, relinquished: 0 }
  const failure = {
    service: 'carried',
    kind: 'keep-alive',
    port: 7,
    id: 2,
    answers: 1,
    begun: 1,
    at: 50_000,
    what: 'ECONNRESET read',
  }
  return judge({
    backends,
    failures: [failure],
    answers: [0, 1, 0],
    load: { connected: 1 },
    kills: { workersKilled, workersEnded: [], outages: [] },
    status: {
      listeners: [{ service: 'carried', accepted: 1 }],
      services: [{ name: 'carried', held: 0, inFlight: 0, parked: 0, handedBack: 0, outcomes, backends: [] }],
    },
  })
}

// A ten-minute run once blamed a live backend for the reset of a client that it had never owned: it had slept through
// the offer of a relay, and adopted it long after the broker had cut it and given the client to another backend.
void t.test('chaos: a relay that was cut before it was adopted owns no client', (t) => {
  const owner = ['a 1000 carried 7 relay C', 'r 1500 carried 7 1']
  const sleeper = ['a 40000 carried 7 relay C', 'u 41000 carried 7 C']
  const { violations, allowed } = verdictOn(t, [owner, sleeper], 49_000)
  t.same(violations, [])
  t.same(allowed, { 'next request on a kept connection of a killed backend': 1 })

  t.match(verdictOn(t, [owner, sleeper], undefined).violations, [/^I5/], 'without a kill it is a violation')
  t.match(
    verdictOn(t, [owner, sleeper.slice(0, 1)], 49_000).violations,
    [/^I5/],
    'a relay that lived on is the owner of the client, and its backend lives',
  )
  t.end()
})

void t.test('chaos: the kill of a worker excuses only what the worker had', (t) => {
  const relayed = ['a 1000 carried 7 relay C', 'r 1500 carried 7 1']
  const owned = ['a 1000 carried 7 handoff C', 'r 1500 carried 7 1']
  const verdict = (journal: string[], ...workersKilled: number[]) =>
    verdictOn(t, [journal, []], undefined, workersKilled)
  t.same(verdict(relayed, 49_000).violations, [])
  t.match(verdict(relayed, 49_000).allowed, { 'relayed by a worker that was killed': 1 })
  t.match(verdict(relayed, 51_000).violations, [/^I5/], 'killed after the failure')
  t.match(verdict(owned, 49_000).violations.at(-1), /^I5/, 'a backend had it')
  const returned = [...owned, 'm 48000 carried 7 C']
  const excuse = 'in a worker that was killed: handed back, and not yet with the next backend'
  t.match(verdict(returned, 49_000).allowed, { [excuse]: 1 })
  t.match(verdict(returned, 47_000).violations.at(-1), /^I5/, 'killed before it was handed back')
  t.end()
})

// A run blamed the giver of two connections that had gone on to a backend, which was killed between its ACK and its note.
void t.test('chaos: a connection that was handed back may be with a backend that was killed', (t) => {
  const giver = ['a 1000 carried 7 handoff C', 'r 1500 carried 7 1', 'm 2000 carried 7 C']
  const verdict = (lines: readonly string[], killedAt: number | undefined, handedOff: number) =>
    verdictOn(t, [[], [...lines]], killedAt, [], handedOff)
  const unwritten = 'ACKed, and killed before the adoption was written down'
  t.match(verdict(giver, 49_000, 1).allowed, { [unwritten]: 1 })
  t.match(verdict(giver, 49_000, 0).violations.at(-1), /^I5/, 'every ACK was written down')
  t.match(verdict(giver, undefined, 1).violations.at(-1), /^I5/, 'none was killed')
  const again = [...giver, 'a 3000 carried 7 handoff C']
  t.match(verdict(again, 49_000, 2).violations.at(-1), /^I5/, 'it has it again')
  t.end()
})
