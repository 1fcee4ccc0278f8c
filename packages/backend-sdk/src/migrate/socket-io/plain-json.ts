import { MigrationError } from '../errors.ts'

/**
 * Checks that JSON holds all of a value: `JSON.stringify` would silently make a string of a Date, and an empty object of a Map.
 *
 * @param path for messages: where `value` is, such as `socket.data`
 * @throws {MigrationError} BATON_ERR_STATE_INVALID
 */
export function checkPlain(value: unknown, path: string, within: readonly unknown[] = []): void {
  if (value === null || ['string', 'boolean', 'undefined'].includes(typeof value)) return
  if (typeof value === 'number' && Number.isFinite(value)) return
  if (typeof value !== 'object') throw invalid(path, typeof value === 'number' ? String(value) : typeof value)
  if (within.includes(value)) throw invalid(path, 'an object that contains itself')
  const prototype: unknown = Object.getPrototypeOf(value)
  const inner = [...within, value]
  if (Array.isArray(value)) {
    for (const [index, each] of value.entries()) {
      if (each === undefined) throw invalid(`${path}[${index}]`, 'undefined')
      checkPlain(each, `${path}[${index}]`, inner)
    }
    return
  }
  if (prototype !== Object.prototype && prototype !== null)
    throw invalid(
      path,
      (Reflect.get(value, 'constructor') as { name?: string } | undefined)?.name ?? 'an object',
    )
  for (const [key, each] of Object.entries(value)) checkPlain(each, `${path}.${key}`, inner)
}

function invalid(path: string, found: string): MigrationError {
  return new MigrationError('BATON_ERR_STATE_INVALID', `${path} is not JSON: ${found}`)
}
