import { connect } from 'node:net'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import type { InstanceStatus } from '../api/master-status.ts'

/** What the master says of itself, its workers, and the backends that it has started. */
export interface MasterStatus {
  readonly master: { readonly pid: number; readonly reloads: number; readonly busy: string | null }
  readonly managed: readonly InstanceStatus[]
  readonly workers: readonly { readonly pid: number; readonly role: string }[]
}

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
