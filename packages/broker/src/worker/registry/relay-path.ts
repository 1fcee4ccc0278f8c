import type { HelloFrame } from '@baton/backend-sdk/protocol'

/** Bytes of `sun_path` (unix(7)) without its end. */
export const MAX_PATH_BYTES = 107

/**
 * The relay endpoint that a backend names. One that no broker could dial counts as none, so that relays go to other backends
 * at once and no failures are counted: a relative path would be looked for in the broker's working folder.
 */
export function usableEndpoint(named: HelloFrame['reconnect']): {
  path: string | null
  /** Why it cannot be used. The path itself is left out: it is the backend's to choose. */
  problem?: string
} {
  if (named === null) return { path: null }
  const { path } = named
  if (!path.startsWith('/')) return { path: null, problem: 'reconnect.path is not absolute' }
  if (path.includes('\0')) return { path: null, problem: 'reconnect.path has a NUL' }
  const bytes = Buffer.byteLength(path)
  if (bytes > MAX_PATH_BYTES) {
    return { path: null, problem: `reconnect.path is ${bytes} bytes long, at most ${MAX_PATH_BYTES}` }
  }
  return { path }
}
