import { readFileSync, writeFileSync } from 'node:fs'
import http from 'node:http'
import { join } from 'node:path'
import type { Test } from 'tap'
import type { Broker } from './broker.ts'
import { Client } from './client.ts'
import { eventually } from './eventually.ts'

/** The master's answer: `Success=0|1`, a line `--`, and lines of its log. */
export interface OperatorAnswer {
  readonly success: boolean
  readonly log: readonly string[]
}

export interface MasterStatus {
  readonly master: { pid: number; reloads: number; busy: string | null; startedAt: string }
  readonly managed: readonly { instance: string; pid: number | null }[]
  readonly workers: readonly { pid: number; role: 'serving' | 'leaving' | 'starting' }[]
}

export function operatorSocket({ control }: Broker): string {
  return join(control, '../master.sock')
}

/** A raw connection to the master. */
export function openSession(t: Test, broker: Broker): Promise<Client> {
  return Client.open(t, { path: operatorSocket(broker) })
}

/** Sends one line, and reads to the end of the session. */
export async function say(t: Test, broker: Broker, line: string): Promise<string> {
  const session = await openSession(t, broker)
  session.send(`${line}\n`)
  return rest(session)
}

/** Everything the session still sends. */
export async function rest(session: Client): Promise<string> {
  const end = await session.ended
  if (end !== 'end') throw new Error(`the session ended with ${end} after ${session.received}`)
  return session.received
}

/** The log of one that fails is among the test's comments. */
export async function reload(t: Test, broker: Broker): Promise<OperatorAnswer> {
  const answer = parseAnswer(await say(t, broker, 'reload'))
  if (!answer.success) t.comment(`the reload failed:\n${answer.log.join('\n')}`)
  return answer
}

/** Nothing before `Success=`, and only complete lines after it. */
export function parseAnswer(text: string): OperatorAnswer {
  const [, success, log] = /^Success=([01])\n--\n((?:.*\n)*)$/.exec(text) ?? []
  if (success === undefined || log === undefined) throw new Error(`not an answer: ${JSON.stringify(text)}`)
  return { success: success === '1', log: log.split('\n').slice(0, -1) }
}

export async function masterStatus(t: Test, broker: Broker): Promise<MasterStatus> {
  return JSON.parse(await say(t, broker, 'status')) as MasterStatus
}

/** The serving worker; resolves once it is the only one. */
export async function onlyWorker(t: Test, broker: Broker): Promise<number> {
  for (;;) {
    const { workers } = await masterStatus(t, broker)
    const [worker] = workers
    if (workers.length === 1 && worker?.role === 'serving') return worker.pid
    await new Promise((resolve) => setTimeout(resolve, 10))
  }
}

/**
 * One request to the admin server on its own connection: a kept one belongs to a worker, and ends with it.
 *
 * @returns the status code and the body
 */
export function askAdmin(broker: Broker, path: string, method = 'GET'): Promise<[number, string]> {
  return new Promise((resolve, reject) => {
    const request = http.request(`${broker.admin}${path}`, { method, agent: false }, (response) => {
      let body = ''
      response.setEncoding('utf8')
      response.on('data', (chunk: string) => (body += chunk))
      response.on('error', reject)
      response.on('end', () => resolve([response.statusCode ?? 0, body]))
    })
    request.on('error', reject)
    request.end()
  })
}

/** Every sample of /metrics, by its series as printed. */
export async function samples(broker: Broker): Promise<Map<string, number>> {
  const [, text] = await askAdmin(broker, '/metrics')
  const lines = text.split('\n').filter((line) => line !== '' && !line.startsWith('#'))
  return new Map(lines.map((line) => split(line, line.lastIndexOf(' '))))
}

function split(line: string, at: number): [string, number] {
  return [line.slice(0, at), Number(line.slice(at + 1))]
}

/** Over all workers so far: accepted connections, and the sum of outcomes. Equal at rest (invariant I4). */
export async function ledger(broker: Broker): Promise<{ accepted: number; ended: number }> {
  let accepted = 0
  let ended = 0
  for (const [series, value] of await samples(broker)) {
    if (series.startsWith('baton_connections_accepted_total{')) accepted += value
    if (series.startsWith('baton_connections_total{')) ended += value
  }
  return { accepted, ended }
}

/** The same once they are equal, after a death: what was lost is counted when no connection moves between workers any more. */
export async function settledLedger(broker: Broker): Promise<{ accepted: number; ended: number }> {
  let now = await ledger(broker)
  const isSettled = async () => {
    now = await ledger(broker)
    return now.accepted === now.ended
  }
  await eventually(isSettled, () => `each connection is counted once: ${JSON.stringify(now)}`)
  return now
}

/** Rewrites the configuration file, without the members that are undefined. */
export function configure(broker: Broker, change: Record<string, unknown>): void {
  const config = JSON.parse(readFileSync(broker.configFile, 'utf8')) as Record<string, unknown>
  writeFileSync(broker.configFile, JSON.stringify({ ...config, ...change }))
}

export function logged(broker: Broker, msg: string): number {
  return broker.program.messages().filter((message) => message['msg'] === msg).length
}

/** Resolves once the broker has logged `msg` `count` times. */
export function logs(broker: Broker, msg: string, count = 1): Promise<void> {
  return eventually(() => logged(broker, msg) >= count, `${count} times "${msg}"`)
}

/** Inodes of the master's ends of its sessions: the connected sockets with the operator socket's name. */
export function sessionInodes(broker: Broker): string[] {
  const path = operatorSocket(broker)
  return readFileSync('/proc/net/unix', 'utf8')
    .split('\n')
    .map((line) => line.trim().split(/\s+/))
    .filter((fields) => fields[7] === path && fields[5] === '03')
    .map((fields) => fields[6] as string)
}
