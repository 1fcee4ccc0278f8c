import { lstatSync, readdirSync, unlinkSync } from 'node:fs'
import { basename, dirname, join } from 'node:path'
import { RELAY_SOCKET_PREFIX } from '@baton/backend-sdk/protocol'
import { connectUnix, NativeError } from '@baton/native-sendmsg'
import type { BackendEndpoint } from './dial.ts'

/**
 * Backends put their relay endpoints beside the control socket and remove them. One that is killed cannot, so the broker does
 * it when the control connection has ended. It has what the backend says for it and may remove what the backend may not: a path
 * elsewhere, another user's socket, and what is no socket at all are not touched. Never throws, whatever the path is.
 */
export function removeRelaySocket(runtimeDir: string, { path, uid }: BackendEndpoint): void {
  if (dirname(path) === runtimeDir && basename(path).startsWith(RELAY_SOCKET_PREFIX))
    removeSocketOf(path, uid)
}

/** At the start: endpoints that nobody serves, left by backends that died after the broker before this one. */
export function sweepRelaySockets(runtimeDir: string): void {
  for (const name of readdirSync(runtimeDir)) {
    if (!name.startsWith(RELAY_SOCKET_PREFIX)) continue
    const path = join(runtimeDir, name)
    try {
      connectUnix(path, 'stream', { descriptors: false }).close()
    } catch (error) {
      if (!(error instanceof NativeError)) throw error
      // Also the answer of a file or a folder of that name, which is nobody's endpoint.
      if (error.code === 'ECONNREFUSED') removeSocketOf(path)
    }
  }
}

/** A name that cannot be looked at or removed stays: it costs nobody a connection, and an error here would cost everybody. */
function removeSocketOf(path: string, uid?: number): void {
  try {
    const found = lstatSync(path)
    if (found.isSocket() && (uid === undefined || found.uid === uid)) unlinkSync(path)
  } catch {
    // Gone already, or a name that no file has (a NUL), or a folder that is not ours any more.
  }
}
