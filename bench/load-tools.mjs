// The load generators, and parsers for their output.
import { execFile } from 'node:child_process'
import { promisify } from 'node:util'
import { compiled } from './compiler.mjs'
import { needed } from './installed.mjs'
import { program } from './scratch.mjs'

const run = promisify(execFile)
const url = (port) => `http://127.0.0.1:${port}/`

/**
 * `ab`: connections with one request each, `concurrency` at a time.
 *
 * @param {number} port
 * @param {{ connections: number, concurrency: number }} options
 * @returns {Promise<{ perSecond: number }>}
 */
export async function ab(port, { connections, concurrency }) {
  const { stdout } = await run(needed('ab'), [
    '-q',
    '-n',
    String(connections),
    '-c',
    String(concurrency),
    url(port),
  ])
  const read = (label) => Number(new RegExp(`^${label}:\\s+([\\d.]+)`, 'm').exec(stdout)?.[1] ?? 0)
  const failed = read('Failed requests') + read('Non-2xx responses')
  const complete = read('Complete requests')
  if (failed > 0 || complete !== connections)
    throw new Error(`ab: ${failed} of ${connections} failed, ${complete} complete`)
  return { perSecond: complete / read('Time taken for tests') }
}

/** Seconds that `wrk` may take beyond its duration. */
const WRK_EXTRA_SECONDS = 10

/**
 * `wrk`: requests on keep-alive connections, each sending the next request as soon as it has its response.
 *
 * @param {number} port
 * @param {{ connections: number, seconds: number }} options
 * @returns {Promise<{ requests: number, bytes: number, seconds: number }>}
 */
export async function wrk(port, { connections, seconds }) {
  const args = ['-t1', `-c${connections}`, `-d${seconds}s`, '-s', program('bench/wrk-summary.lua'), url(port)]
  const { stdout } = await run(needed('wrk'), args, { timeout: (seconds + WRK_EXTRA_SECONDS) * 1000 })
  const { requests, microseconds, bytes, errors } = JSON.parse(stdout.trimEnd().split('\n').at(-1))
  if (errors > 0) throw new Error(`wrk: ${errors} of ${requests} requests failed`)
  return { requests, bytes, seconds: microseconds / 1e6 }
}

/** @typedef {{ count: number, failed: number, p50: number, p99: number, max: number }} Latencies in microseconds */

async function load(args) {
  const { stdout } = await run(compiled('load'), args.map(String))
  return JSON.parse(stdout)
}

/**
 * New connections, one at a time: from connect() to the first byte of the response.
 *
 * @param {number} port
 * @param {{ connections: number, seconds: number }} options `seconds`: at most
 * @returns {Promise<Latencies>}
 */
export async function oneByOne(port, { connections, seconds }) {
  const latencies = await load(['latency', port, connections, seconds])
  if (latencies.failed > 0) throw new Error(`${latencies.failed} of ${connections} connections failed`)
  return latencies
}

/**
 * An open loop: requests on keep-alive connections and new connections, both on a schedule.
 *
 * @param {number} port
 * @param {{ kept: number, requests: number, connections: number, lead: number, seconds: number }} options `requests`,
 *   `connections`: per second; `lead`: warm-up seconds, not counted
 * @returns {Promise<{ kept: Latencies, fresh: Latencies }>}
 */
export async function onSchedule(port, { kept, requests, connections, lead, seconds }) {
  const both = await load(['paced', port, kept, requests, connections, lead, seconds])
  const failed = both.kept.failed + both.fresh.failed
  if (failed > 0) throw new Error(`${failed} requests failed`)
  return both
}

/**
 * New connections that send the bytes of a file, and read until the server closes.
 *
 * @param {number} port
 * @param {{ connections: number, concurrency: number, file: string }} options
 * @returns {Promise<{ perSecond: number }>}
 */
export async function hellos(port, { connections, concurrency, file }) {
  const { count, failed, seconds } = await load(['hello', port, connections, concurrency, file])
  if (failed > 0) throw new Error(`${failed} of ${connections} connections failed`)
  return { perSecond: count / seconds }
}
