// Writes baton.schema.json, which editors read, from the schema that `baton` itself checks with.
// Run after a build: node packages/broker/scripts/write-schema.mjs
import { writeFileSync } from 'node:fs'

import { jsonSchema } from '../dist/config/json-schema.js'

writeFileSync(
  new URL('../baton.schema.json', import.meta.url),
  `${JSON.stringify(jsonSchema(), undefined, 2)}\n`,
)
