// One of several servers is stuck in a busy loop while new connections arrive on schedule. Clients whose connection the
// stuck process had taken before the loop began are counted separately: no other process may touch them.
import { join } from 'node:path'
import { SpeakingChild } from '../../test/programs/speaking-child.mjs'
import { startBroker } from '../broker.mjs'
import { comparison } from '../report/comparison.mjs'
import { interleaved } from '../rounds.mjs'
import { program, temporaryFolder } from '../scratch.mjs'

export const ACK_DEADLINE = 500
/** New connections per second. */
const RATE = { full: 500, quick: 200 }
const SERVERS = 4
/** Milliseconds. */
const BUSY = { full: 5000, quick: 3000 }

/** @typedef {{ servers: number, busy: number, rate: number, onlyStuck?: boolean }} Situation */

/**
 * @param {string[]} args
 * @param {NodeJS.ProcessEnv} env
 * @param {Situation} situation
 */
async function run(args, env, { busy, rate, onlyStuck = false }) {
  const adoptions = join(temporaryFolder(), 'adoptions')
  const numbers = ['--rate', String(rate), '--busy', String(busy)]
  const child = new SpeakingChild(program('test/programs/stuck-run.mjs'), {
    args: [...args, ...numbers, ...(onlyStuck ? ['--only-stuck'] : [])],
    env: { ...env, ADOPTIONS: adoptions },
  })
  return child.message('done')
}

/** @param {Situation} situation */
export async function stuckUnderBaton(situation) {
  const broker = await startBroker({ service: { ackDeadline: ACK_DEADLINE, balance: 'round-robin' } })
  const server = ['--server', program('test/programs/recording-backend.mjs')]
  const rounds = await run(
    [...server, '--servers', String(situation.servers), '--port', String(broker.port)],
    { BATON_SOCKET: broker.control, BATON_SERVICE: 'web' },
    situation,
  )
  const { outcomes } = (await broker.status()).services[0]
  await broker.stop()
  return { ...rounds, outcomes }
}

/** @param {Situation} situation */
export const stuckUnderCluster = (situation) =>
  run(
    ['--server', program('bench/cluster-app.mjs'), '--servers', '1'],
    { WORKERS: String(situation.servers) },
    situation,
  )

const RUNS = { Baton: stuckUnderBaton, cluster: stuckUnderCluster }

/** @type {import('./index.mjs').Measure} */
export async function measure({ rounds, size, leaveOut }) {
  const situation = { servers: SERVERS, busy: BUSY[size], rate: RATE[size], onlyStuck: true }
  const samples = await interleaved({
    peers: Object.keys(RUNS).map((name) => ({ name })),
    rounds,
    leaveOut,
    sample: async ({ name }) => {
      const { waits, failures } = (await RUNS[name](situation)).stuck
      const failed = Object.values(failures).reduce((sum, count) => sum + count, 0)
      if (failed > 0) throw new Error(`${failed} clients failed: ${JSON.stringify(failures)}`)
      return { worst: waits.worst, p99: waits.p99 }
    },
  })
  return {
    samples,
    sections: [
      comparison({
        title: 'One of four backends stuck, worst wait',
        note: `In a busy loop for ${situation.busy / 1000} s, under ${situation.rate} new connections/s on schedule. Clients whose connection it had already taken are not counted: no other process may touch those. Baton's \`ackDeadline\` is ${ACK_DEADLINE} ms, its default.`,
        unit: 'ms',
        samples,
        metric: 'worst',
        targets: [{ what: 'worst wait beside a stuck backend, to cluster', against: 'cluster', atMost: 0.2 }],
      }),
    ],
  }
}
