// PM2 in cluster mode: its daemon is the primary of the app's processes.
import { execFile, spawnSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { pm2Command } from '../installed.mjs'
import { atEnd, freePort, kill, temporaryFolder } from '../scratch.mjs'
import { APP, appEnvironment, listening } from './peer.mjs'

const run = promisify(execFile)

/** @param {import('./peer.mjs').PeerOptions} options @returns {Promise<Omit<import('./peer.mjs').Peer, 'name'>>} */
export async function start({ backends = 1, bodyBytes } = {}) {
  const command = await pm2Command()
  const home = temporaryFolder()
  const port = await freePort()
  const env = {
    ...process.env,
    PM2_HOME: home,
    PORT: String(port),
    APP_MODE: 'pm2',
    ...appEnvironment(bodyBytes),
  }
  const call = (...args) => run(command, args, { env })
  // Until the daemon's pid is known, only its own command can end it.
  const isKnown = atEnd(() => spawnSync(command, ['kill'], { env }))
  await call('start', APP, '--name', 'app', '-i', String(backends), '--wait-ready')
  const daemon = Number(readFileSync(join(home, 'pm2.pid'), 'utf8'))
  const { stdout } = await call('jlist')
  const pids = JSON.parse(stdout.slice(stdout.indexOf('['))).map(({ pid }) => pid)
  const hasStopped = atEnd(() => {
    for (const pid of [daemon, ...pids]) kill(pid, 'SIGKILL')
  })
  isKnown()
  await listening(port)
  return {
    port,
    processes: [
      { role: 'broker', pid: daemon },
      ...pids.map((pid) => ({ role: /** @type {const} */ ('backend'), pid })),
    ],
    async stop() {
      await call('kill')
      hasStopped()
    },
  }
}
