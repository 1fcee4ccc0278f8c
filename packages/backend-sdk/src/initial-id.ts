import { isUlid } from './protocol/ulid.ts'

let taken = false

/**
 * The id that the master assigned to this process (`BATON_BACKEND_ID`), by which it recognizes the registration; null if there
 * is none. It identifies one backend, so only the first one in the process gets it, and only for the service that the process was
 * started for. A value that is not a ULID is ignored; the broker then assigns an id.
 */
export function takeInitialId(service: string, env: NodeJS.ProcessEnv): string | null {
  const id = env['BATON_BACKEND_ID']
  if (taken || id === undefined || !isUlid(id)) return null
  if ((env['BATON_SERVICE'] ?? service) !== service) return null
  taken = true
  return id
}
