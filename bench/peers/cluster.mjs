// Node's own `cluster`, round robin: the primary accepts and passes each connection to a worker.
import { SpeakingChild } from '../../test/programs/speaking-child.mjs'
import { program } from '../scratch.mjs'
import { APP, appEnvironment } from './peer.mjs'

/** @param {import('./peer.mjs').PeerOptions} options @returns {Promise<Omit<import('./peer.mjs').Peer, 'name'>>} */
export async function start({ backends = 1, bodyBytes } = {}) {
  const primary = new SpeakingChild(program('bench/programs/cluster-primary.mjs'), {
    args: [APP, String(backends)],
    env: { APP_MODE: 'listen', ...appEnvironment(bodyBytes) },
  })
  const { port, pids } = await primary.message('listening')
  return {
    port,
    processes: [
      { role: 'broker', pid: primary.pid },
      ...pids.map((pid) => ({ role: /** @type {const} */ ('backend'), pid })),
    ],
    /** Its workers exit with it, because their channel closes. */
    async stop() {
      primary.kill('SIGKILL')
      await primary.exited
    },
  }
}
