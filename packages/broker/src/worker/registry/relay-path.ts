import type { HelloFrame } from '@baton/backend-sdk/protocol'

/** Bytes of `sun_path` (unix(7)) without the terminating NUL. */
export const MAX_PATH_BYTES = 107

/**
 * The relay endpoint that a backend names. One that the broker could not dial counts as none, so that relays go straight to other
 * backends and no failures are counted. A relative path is refused: it would be resolved in the broker's working directory.
 */
export function usableEndpoint(named: HelloFrame['reconnect']): {
  path: string | null
  /** Why it cannot be used. Leaves out the path itself, which the backend chose. */
  problem?: string
} {
  if (named === null) return { path: null }
  const { path } = named
  if (!path.startsWith('/')) return { path: null, problem: 'reconnect.path is not absolute' }
  if (path.includes('\0')) return { path: null, problem: 'reconnect.path contains a NUL' }
  const bytes = Buffer.byteLength(path)
  if (bytes > MAX_PATH_BYTES) {
    return { path: null, problem: `reconnect.path is ${bytes} bytes long, at most ${MAX_PATH_BYTES}` }
  }
  return { path }
}
