import { join } from 'node:path'
import t from 'tap'
import { startBroker } from './support/broker.ts'
import { batonHere } from './support/command.ts'
import { freePort } from './support/free-port.ts'
import { LIMIT } from './support/limits.ts'
import { root } from './support/process.ts'

// A process that no client connects to, as in docs/how-to/from-pm2.md.

void t.test(
  'a process without a port is deployed, and finishes its job first',
  { timeout: LIMIT },
  async (t) => {
    const broker = await startBroker(t, {
      config: {
        // In the file, because commands read it there.
        admin: { listen: `127.0.0.1:${await freePort()}` },
        listeners: [{ name: 'web', listen: '127.0.0.1:0', service: 'web' }],
        services: {
          web: {},
          queue: { command: [process.execPath, join(root, 'test/apps/queue.mjs')], minHealthy: '1ms' },
        },
      },
    })
    await broker.backends(1, 'queue')
    const { code, out } = await batonHere('deploy', 'queue', '--config', broker.configFile)
    t.equal(code, 0)
    t.equal(out.at(-1), 'done queue: 1 replaced')

    const first = out.join('\n').match(/draining queue\.1: has taken over; draining (\w{26})/)?.[1]
    const { out: logs } = await batonHere('logs', 'queue', '--json', '--config', broker.configFile)
    const printed = logs
      .map((line) => JSON.parse(line) as { backend: string; stream: string; msg: string })
      .filter(({ backend, stream }) => backend === first && stream === 'stdout')
      .map(({ msg }) => msg)
    t.ok(printed.length >= 2)
    t.equal(printed.at(-1), 'the job is done', 'it was not cut')
    // Its last job is over before the broker is.
    broker.program.kill('SIGTERM')
    t.match(await broker.program.exited, { code: 0 })
  },
)
