// The common part of nginx and HAProxy: a configuration file, a daemon in the foreground, and apps behind it.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { atEnd, freePort, temporaryFolder } from '../scratch.mjs'
import { listening, startApps } from './peer.mjs'

/** The backlog of Baton's listeners, and more clients than any measure uses. */
export const BACKLOG = 4096
export const MAX_CLIENTS = 8192

/**
 * @param {{
 *   command: string
 *   args: (file: string, folder: string) => string[]
 *   configuration: (place: { port: number, upstreams: number[], folder: string }) => string
 *   workers?: (pid: number) => number[]
 *   options: import('./peer.mjs').PeerOptions
 * }} proxy `workers`: the pids of its other processes, once it listens
 * @returns {Promise<Omit<import('./peer.mjs').Peer, 'name'>>}
 */
export async function startProxy({ command, args, configuration, workers = () => [], options }) {
  const { backends = 1, bodyBytes } = options
  const apps = await startApps({ count: backends, mode: 'listen', bodyBytes })
  const port = await freePort()
  const folder = temporaryFolder()
  const file = join(folder, 'proxy.conf')
  writeFileSync(file, configuration({ port, upstreams: apps.apps.map((app) => app.port), folder }))
  const child = spawn(command, args(file, folder), { stdio: ['ignore', 'ignore', 'inherit'] })
  const exited = once(child, 'exit')
  const hasStopped = atEnd(() => child.kill('SIGTERM'))
  const early = exited.then(([code]) => {
    throw new Error(`${command} ended (${code}) before it listened`)
  })
  await Promise.race([listening(port), early])
  early.catch(() => {})
  const pids = [child.pid, ...workers(child.pid)]
  return {
    port,
    processes: [...pids.map((pid) => ({ role: /** @type {const} */ ('broker'), pid })), ...apps.processes],
    async stop() {
      child.kill('SIGTERM')
      await exited
      hasStopped()
      await apps.stop()
    },
  }
}
