import { lstatSync, readdirSync, unlinkSync } from 'node:fs'
import { basename, dirname, join } from 'node:path'
import { RELAY_SOCKET_PREFIX } from '@baton/backend-sdk/protocol'
import { connectUnix, NativeError } from '@baton/native-sendmsg'
import type { BackendEndpoint } from './dial.ts'

/**
 * Backends create their relay endpoints beside the control socket and remove them. One that is killed cannot, so the broker does
 * it when the control connection has ended. The path comes from the backend, and the broker may remove files that the backend may
 * not: paths elsewhere, other users' sockets and files that are not sockets are left alone. Never throws.
 */
export function removeRelaySocket(runtimeDir: string, { path, uid }: BackendEndpoint): void {
  if (dirname(path) === runtimeDir && basename(path).startsWith(RELAY_SOCKET_PREFIX))
    removeSocketOf(path, uid)
}

/** Age of a socket that no process listens at yet from which its process is certain to be dead, in milliseconds. */
const START_TIMEOUT_MS = 60_000

/**
 * At start-up: removes endpoints that no process serves, left by backends that died when no broker was running. Meanwhile backends
 * register, and create theirs: under a name with a dot before the prefix, until they listen.
 */
export function sweepRelaySockets(runtimeDir: string): void {
  for (const name of readdirSync(runtimeDir)) {
    const starts = name.startsWith(`.${RELAY_SOCKET_PREFIX}`)
    if (!starts && !name.startsWith(RELAY_SOCKET_PREFIX)) continue
    const path = join(runtimeDir, name)
    if (starts && !isOlderThan(path, START_TIMEOUT_MS)) continue
    try {
      connectUnix(path, 'stream', { descriptors: false }).close()
    } catch (error) {
      if (!(error instanceof NativeError)) throw error
      // Also the error for a file or folder of that name, which `removeSocketOf` leaves alone.
      if (error.code === 'ECONNREFUSED') removeSocketOf(path)
    }
  }
}

/** By the clock of the day. False if the file is gone. */
function isOlderThan(path: string, age: number): boolean {
  const found = lstatSync(path, { throwIfNoEntry: false })
  return found !== undefined && Date.now() - found.mtimeMs > age
}

/** Ignores failures: a leftover socket file is harmless; an exception here is not. */
function removeSocketOf(path: string, uid?: number): void {
  try {
    const found = lstatSync(path)
    if (found.isSocket() && (uid === undefined || found.uid === uid)) unlinkSync(path)
  } catch {
    // Already gone, an invalid name (a NUL), or a folder that is no longer ours.
  }
}
