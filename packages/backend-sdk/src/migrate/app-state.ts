import { MigrationError } from './errors.ts'

/**
 * The app's state of a connection that is to be handed back, as JSON.
 *
 * @param take the app's `state`
 * @returns undefined if the connection is not to move now
 * @throws {MigrationError} BATON_ERR_STATE_FAILED, BATON_ERR_STATE_INVALID
 */
export function takeState(take: () => unknown): Buffer | undefined {
  let state: unknown
  try {
    state = take()
  } catch (error) {
    throw new MigrationError('BATON_ERR_STATE_FAILED', undefined, { cause: error })
  }
  if (state === undefined) return undefined
  if (isThenable(state)) {
    // Not awaited: it may fail later, and nothing else would handle that.
    Promise.resolve(state).catch(() => undefined)
    throw new MigrationError('BATON_ERR_STATE_INVALID', 'it returned a promise, and must be synchronous')
  }
  let json: string | undefined
  try {
    json = JSON.stringify(state)
  } catch (error) {
    throw new MigrationError('BATON_ERR_STATE_INVALID', undefined, { cause: error })
  }
  if (json === undefined) throw new MigrationError('BATON_ERR_STATE_INVALID', `it returned a ${typeof state}`)
  return Buffer.from(json)
}

/** @throws {MigrationError} BATON_ERR_RESUME_FAILED: not what an SDK has written */
export function readState(json: Buffer): unknown {
  try {
    return JSON.parse(json.toString())
  } catch (error) {
    throw new MigrationError('BATON_ERR_RESUME_FAILED', 'its state is not JSON', { cause: error })
  }
}

function isThenable(value: unknown): value is PromiseLike<unknown> {
  return typeof value === 'object' && value !== null && typeof Reflect.get(value, 'then') === 'function'
}
