import { connect } from 'node:net'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import type { MasterStatus } from '../api/master-status.ts'

/** Undefined where there is no master, or one that this user may not ask: an app may have embedded the broker. */
export async function masterStatus(runtimeDir: string): Promise<MasterStatus | undefined> {
  try {
    const socket = connect(join(runtimeDir, 'master.sock'))
    socket.write('status\n')
    return JSON.parse(await text(socket)) as MasterStatus
  } catch {
    return undefined
  }
}
