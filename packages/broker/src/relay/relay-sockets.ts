import { readdirSync, unlinkSync } from 'node:fs'
import { basename, dirname, join } from 'node:path'
import { RELAY_SOCKET_PREFIX } from '@baton/backend-sdk/protocol'
import { connectUnix, NativeError } from '@baton/native-sendmsg'

/**
 * Backends put their relay endpoints beside the control socket and remove them. One that is killed cannot, so the broker does
 * it when the control connection has ended. A path elsewhere is not ours to touch.
 */
export function removeRelaySocket(runtimeDir: string, path: string | null): void {
  if (path === null || dirname(path) !== runtimeDir || !basename(path).startsWith(RELAY_SOCKET_PREFIX)) return
  removeFile(path)
}

/** At the start: endpoints that nobody serves, left by backends that died after the broker before this one. */
export function sweepRelaySockets(runtimeDir: string): void {
  for (const name of readdirSync(runtimeDir)) {
    if (!name.startsWith(RELAY_SOCKET_PREFIX)) continue
    const path = join(runtimeDir, name)
    try {
      connectUnix(path).close()
    } catch (error) {
      if (!(error instanceof NativeError)) throw error
      if (error.code === 'ECONNREFUSED') removeFile(path)
    }
  }
}

function removeFile(path: string): void {
  try {
    unlinkSync(path)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error
  }
}
