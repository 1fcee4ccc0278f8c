// The C broker of bench/floor.c with the same SDK behind it: the lower bound for any broker with this protocol.
import { join } from 'node:path'
import { SpeakingChild } from '../../test/programs/speaking-child.mjs'
import { compiled } from '../compiler.mjs'
import { atEnd, temporaryFolder } from '../scratch.mjs'
import { startApps } from './peer.mjs'

/** @param {import('./peer.mjs').PeerOptions} options @returns {Promise<Omit<import('./peer.mjs').Peer, 'name'>>} */
export async function start({ backends = 1, bodyBytes } = {}) {
  const control = join(temporaryFolder(), 'control.sock')
  const broker = new SpeakingChild(compiled('floor'), { args: [control], runtime: [] })
  const hasStopped = atEnd(() => broker.kill('SIGKILL'))
  const { port } = await broker.message('listening')
  const env = { BATON_SOCKET: control, BATON_SERVICE: 'web' }
  const apps = await startApps({ count: backends, mode: 'attach', bodyBytes, env })
  return {
    port,
    processes: [{ role: 'broker', pid: broker.pid }, ...apps.processes],
    async stop() {
      broker.kill('SIGTERM')
      await broker.exited
      hasStopped()
      await apps.stop()
    },
  }
}
