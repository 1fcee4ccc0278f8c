import type { Test } from 'tap'
import type { Broker } from './broker.ts'
import { Client } from './client.ts'

/** A client of the listener `web` that has sent a request; `answer()` reads the response. */
export async function visit(t: Test, broker: Broker, path = '/'): Promise<Client> {
  const client = await Client.open(t, { host: '127.0.0.1', port: broker.port() })
  client.request(path)
  return client
}

export async function visitors(t: Test, broker: Broker, count: number): Promise<Client[]> {
  return Promise.all(Array.from({ length: count }, () => visit(t, broker)))
}

/** The pid (`x-pid`) of the backend that serves a new client. */
export async function servedBy(t: Test, broker: Broker): Promise<number> {
  const client = await visit(t, broker)
  const pid = Number((await client.answer()).headers['x-pid'])
  // The backend keeps an idle connection for minutes, and a worker that relays one could not exit.
  client.socket.destroy()
  return pid
}
