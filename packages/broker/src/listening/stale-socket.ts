import { once } from 'node:events'
import { lstatSync, unlinkSync } from 'node:fs'
import { connect } from 'node:net'

import { errnoOf } from '../config/index.ts'

/**
 * Removes a socket file that a killed process left behind. One that somebody listens on, and a file that is no
 * socket, stay: binding then fails with EADDRINUSE, as it should.
 */
export async function removeStaleSocket(path: string): Promise<void> {
  const probe = connect(path)
  try {
    await once(probe, 'connect')
  } catch (error) {
    // ECONNREFUSED is also what connecting to a plain file gives; only a socket may be taken away.
    if (errnoOf(error) === 'ECONNREFUSED' && lstatSync(path).isSocket()) unlinkSync(path)
  } finally {
    probe.destroy()
  }
}
