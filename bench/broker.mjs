// A broker for one measurement: `baton start` in its own folder, on ports chosen by the kernel.
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { SpeakingChild } from '../test/programs/speaking-child.mjs'
import { atEnd, kill, program, temporaryFolder } from './scratch.mjs'

/**
 * Resolves once the broker accepts connections. `service`: the configuration of its one service, `web`; `config`: what else the
 * configuration has, or what it has in place of that; `folder`: where an earlier broker ran, to take its place; `packages`: the folder
 * of Baton's packages, which may be older ones.
 */
export async function startBroker({
  service = {},
  config = {},
  env = {},
  wrapper = [],
  folder = temporaryFolder(),
  packages = program('packages'),
} = {}) {
  const file = join(folder, 'baton.json')
  const configuration = {
    runtimeDir: join(folder, 'run'),
    admin: { listen: '127.0.0.1:0' },
    listeners: [{ name: 'web', listen: '127.0.0.1:0', protocol: 'http', service: 'web' }],
    services: { web: service },
    ...config,
  }
  writeFileSync(file, JSON.stringify(configuration))
  const child = new SpeakingChild(join(packages, 'broker/bin/baton.js'), {
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
    port: portOf(listeners.web),
    ports: Object.fromEntries(Object.entries(listeners).map(([name, address]) => [name, portOf(address)])),
    status: async () => (await fetch(`http://${admin}/api/v1/status`)).json(),
    metrics: async () => (await fetch(`http://${admin}/metrics`)).text(),
    /** Its master was killed, and the next one has taken the rest over: nothing of it is to be ended at exit. */
    forget: hasStopped,
    async stop() {
      child.kill('SIGTERM')
      await child.exited
      hasStopped()
    },
  }
}

/** @param {string | undefined} address */
function portOf(address) {
  return Number(address?.split(':').at(-1))
}
