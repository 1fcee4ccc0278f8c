import { BackendError } from '../errors.ts'

/** Greatest length of the name of a schema, in bytes of UTF-8. */
const MAX_SCHEMA_BYTES = 255

/** Maximum number of schemas that one process resumes. */
export const MAX_SCHEMAS = 64

/** The names of what an app's `state` returns, and of what its `resume` understands. */
export interface SchemaOptions {
  /** Name of the format of what `state` returns, such as `chat/1`: at most 255 bytes. Change it when the format changes. */
  schema: string
  /** Schemas that `resume` understands. Default: `schema` alone. */
  accepts?: readonly string[]
}

/**
 * @param call for messages: the function that got the options
 * @returns the schemas that are accepted
 * @throws {BackendError} BATON_ERR_INVALID_OPTION
 */
export function checkMigrationOptions(
  call: string,
  options: SchemaOptions & { readonly state: unknown; readonly resume: unknown },
): readonly string[] {
  const { schema, accepts = [schema], state, resume } = options
  const invalid = (text: string) => new BackendError('BATON_ERR_INVALID_OPTION', `${call}: ${text}`)
  if (!Array.isArray(accepts)) throw invalid('accepts must be a list of schemas')
  for (const name of [schema, ...accepts] as unknown[]) {
    if (typeof name !== 'string' || name === '' || Buffer.byteLength(name) > MAX_SCHEMA_BYTES)
      throw invalid(`a schema is ${JSON.stringify(name)}, wanted a name of 1 to ${MAX_SCHEMA_BYTES} bytes`)
  }
  if (accepts.length > MAX_SCHEMAS) throw invalid(`accepts has over ${MAX_SCHEMAS} schemas`)
  if (typeof state !== 'function') throw invalid('state must be a function')
  if (typeof resume !== 'function') throw invalid('resume must be a function')
  return [...new Set(accepts)]
}
