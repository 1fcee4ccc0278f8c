import type { Test } from 'tap'
import type { Broker, Status } from './broker.ts'
import { Client } from './client.ts'
import { eventually } from './eventually.ts'
import { askAdmin, onlyWorker } from './operator.ts'

// Many clients that are held while a worker is replaced by another.

export type ServiceStatus = Status['services'][number]

/** The status of the worker that answers now: the kept connection of `Broker.status` may belong to one that has exited. */
export async function statusNow(broker: Broker): Promise<Status> {
  return JSON.parse((await askAdmin(broker, '/api/v1/status'))[1]) as Status
}

export async function serviceNow(broker: Broker, name: string): Promise<ServiceStatus> {
  const service = (await statusNow(broker)).services.find((each) => each.name === name)
  if (service === undefined) throw new Error(`no service ${name}`)
  return service
}

/** `count` clients that have sent a request. */
export function visitorsOf(t: Test, port: number, count: number): Promise<Client[]> {
  return Promise.all(
    Array.from({ length: count }, async () => {
      const client = await Client.open(t, { host: '127.0.0.1', port })
      client.request()
      return client
    }),
  )
}

/** All held clients of `service` get their response, the old worker exits, and the remaining one has handed each of them off. */
export async function allServed(
  t: Test,
  broker: Broker,
  service: string,
  waiting: readonly Client[],
): Promise<void> {
  const answers = await Promise.all(waiting.map((client) => client.answer()))
  t.equal(answers.filter(({ status }) => status === 200).length, waiting.length)
  await onlyWorker(t, broker)
  await eventually(async () => (await serviceNow(broker, service)).inFlight === 0, 'all have gone')
  const none = { relayed: 0, rejected: 0, client_gone: 0, relinquished: 0, idle_closed: 0 }
  t.same((await serviceNow(broker, service)).outcomes, { handed_off: waiting.length, ...none })
}
