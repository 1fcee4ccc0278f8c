// Baton as `baton start` runs it: a master, a worker, and registered backends. The master does nothing per
// connection, but its CPU time is included. And the same as it was at an earlier commit, with the SDK of that commit.
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { buildOld, history, OLD } from '../../scripts/old-build.mjs'
import { startBroker } from '../broker.mjs'
import { temporaryFolder } from '../scratch.mjs'
import { LeftOut, startApps } from './peer.mjs'

/** Its name in the tables. */
export const OLD_NAME = `Baton ${OLD}`

/** @param {import('./peer.mjs').PeerOptions} options @returns {Promise<Omit<import('./peer.mjs').Peer, 'name'>>} */
export async function start(options) {
  return await startFrom(undefined, options)
}

/** @param {import('./peer.mjs').PeerOptions} options @returns {Promise<Omit<import('./peer.mjs').Peer, 'name'>>} */
export async function startOld(options) {
  return await startFrom(await (oldPackages ??= builtOld()), options)
}

/** @type {Promise<string> | undefined} */
let oldPackages

async function builtOld() {
  const archive = history()
  if (archive === undefined) throw new LeftOut('this clone does not have that commit')
  const folder = temporaryFolder()
  await buildOld(archive, folder)
  return join(folder, 'packages')
}

/** @param {string | undefined} packages their folder; undefined: today's */
async function startFrom(packages, { backends = 1, bodyBytes, handoff = 'auto' } = {}) {
  const broker = await startBroker({ service: { handoff }, packages })
  const env = {
    BATON_SOCKET: broker.control,
    BATON_SERVICE: 'web',
    ...(packages && { SDK: sdkIn(packages) }),
  }
  const apps = await startApps({ count: backends, mode: 'attach', bodyBytes, env })
  return {
    port: broker.port,
    processes: [
      { role: 'broker', pid: broker.child.pid },
      { role: 'broker', pid: broker.pid },
      ...apps.processes,
    ],
    async stop() {
      await apps.stop()
      await broker.stop()
    },
  }
}

/** @param {string} packages */
function sdkIn(packages) {
  const folder = join(packages, 'backend-sdk')
  const { exports: exported } = JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8'))
  return join(folder, exported['.'].default)
}
