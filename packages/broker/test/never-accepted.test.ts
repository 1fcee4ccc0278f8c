import { once } from 'node:events'
import { connect } from 'node:net'
import { join } from 'node:path'
import { acceptMany, dup, OwnedFd, Poller } from '@baton/native-sendmsg'
import pino from 'pino'
import t from 'tap'
import { LIMIT } from '../../../test/support/limits.ts'
import { temporaryFolder } from '../../../test/support/process.ts'
import { parseConfig } from '../src/config/config.ts'
import { openSockets } from '../src/listening/sockets.ts'
import { createWorker } from '../src/worker/worker.ts'

// A worker that was to follow another one lost its master before it accepted. It drained, took the clients from the queue that it shares with the worker
// that went on, and kept them until its deadline: it had no backends.
void t.test('a worker that has never accepted leaves the queue alone', { timeout: LIMIT }, async (t) => {
  const folder = temporaryFolder(t)
  const config = parseConfig({
    runtimeDir: join(folder, 'run'),
    admin: { listen: `unix:${join(folder, 'admin.sock')}` },
    listeners: [{ name: 'web', listen: '127.0.0.1:0', service: 'web' }],
    services: { web: {} },
  })
  const sockets = openSockets(config)
  const socket = sockets.listeners.get('web')
  if (socket === undefined) throw new Error('no socket')
  const other = dup(socket.fd)
  t.teardown(() => other.close())
  const worker = createWorker(config, pino({ enabled: false }), { sockets, poller: new Poller() })
  await worker.serve()
  const { port } = new URL(`tcp://${worker.addresses.get('web')}`)
  const client = connect({ host: '127.0.0.1', port: Number(port) })
  t.teardown(() => client.destroy())
  await once(client, 'connect')
  await worker.drain(60_000)
  const { connections } = acceptMany(other.fd, 8)
  t.equal(connections.length, 1, 'the client is still in the queue')
  for (const { fd } of connections) new OwnedFd(fd).close()
})
