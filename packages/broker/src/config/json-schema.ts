import * as z from 'zod'

import { schema } from './schema.ts'

/** As much of JSON Schema as zod writes for the configuration. Shape and order are those of the file itself. */
export type JsonSchema = z.core.JSONSchema.BaseSchema

/** The configuration file as JSON Schema (draft 2020-12), published as `@baton/broker/baton.schema.json`. */
export function jsonSchema(): JsonSchema {
  return z.toJSONSchema(schema, { io: 'input' })
}
