// A broker for one measurement: `baton start` in its own folder, on ports chosen by the kernel.
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { SpeakingChild } from '../test/programs/speaking-child.mjs'
import { atEnd, kill, program, temporaryFolder } from './scratch.mjs'

/** Resolves once the broker accepts connections. `service`: the configuration of its one service, `web`. */
export async function startBroker({ service = {}, env = {}, wrapper = [] } = {}) {
  const folder = temporaryFolder()
  const file = join(folder, 'baton.json')
  const configuration = {
    runtimeDir: join(folder, 'run'),
    admin: { listen: '127.0.0.1:0' },
    listeners: [{ name: 'web', listen: '127.0.0.1:0', protocol: 'http', service: 'web' }],
    services: { web: service },
  }
  writeFileSync(file, JSON.stringify(configuration))
  const child = new SpeakingChild(program('packages/broker/dist/cli/main.js'), {
    args: ['start', '--config', file],
    env,
    wrapper,
  })
  const masterIsKnown = atEnd(() => child.kill('SIGKILL'))
  const { control, admin, listeners, pid } = await child.message('accepting connections')
  masterIsKnown()
  const hasStopped = atEnd(() => {
    child.kill('SIGKILL')
    kill(pid, 'SIGKILL')
  })
  return {
    child,
    /** The worker's pid: the process that serves clients and backends. */
    pid,
    folder,
    control,
    admin: `http://${admin}`,
    port: Number(listeners.web.split(':').at(-1)),
    status: async () => (await fetch(`http://${admin}/api/v1/status`)).json(),
    metrics: async () => (await fetch(`http://${admin}/metrics`)).text(),
    async stop() {
      child.kill('SIGTERM')
      await child.exited
      hasStopped()
    },
  }
}
