// A broker for one measurement: `baton start` in a folder of its own, on ports that the kernel chooses.
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { SpeakingChild } from '../test/programs/speaking-child.mjs'

/** The path of a program of the repository. */
export const program = (path) => fileURLToPath(new URL(`../${path}`, import.meta.url))

/** What must not outlive this process, however it ends. */
const leftovers = new Set()
process.once('exit', () => {
  for (const remove of leftovers) remove()
})

/** A folder that is gone with this process. */
export function temporaryFolder() {
  const folder = mkdtempSync(join(tmpdir(), 'baton-bench-'))
  leftovers.add(() => rmSync(folder, { recursive: true, force: true }))
  return folder
}

/** Resolves when it accepts connections. `service`: the configuration of its one service, `web`. */
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
  const killMaster = () => child.kill('SIGKILL')
  leftovers.add(killMaster)
  const { control, admin, listeners, pid } = await child.heard('accepting connections')
  leftovers.delete(killMaster)
  const kill = () => {
    child.kill('SIGKILL')
    try {
      process.kill(pid, 'SIGKILL')
    } catch {
      // It was gone before its master.
    }
  }
  leftovers.add(kill)
  return {
    child,
    /** Of the worker, with which clients and backends deal. */
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
      leftovers.delete(kill)
    },
  }
}
