import { isUlid } from './protocol/ulid.ts'

let taken = false

/**
 * The id that a master has given to this process (`BATON_BACKEND_ID`), so that it knows it again among the registered
 * ones; null when there is none. It names one backend: only the first one in the process gets it, and only for the service
 * that the process was started for. What is no ULID is ignored: the broker then gives an id.
 */
export function takeInitialId(service: string, env: NodeJS.ProcessEnv): string | null {
  const id = env['BATON_BACKEND_ID']
  if (taken || id === undefined || !isUlid(id)) return null
  if ((env['BATON_SERVICE'] ?? service) !== service) return null
  taken = true
  return id
}
