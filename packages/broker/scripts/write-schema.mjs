// Writes baton.schema.json, which editors read, from the schema that `baton` itself checks with.
// Run after a build, by `npm run docs`.
import { writeFileSync } from 'node:fs'

import { jsonSchema } from '../dist/config/schema.js'

writeFileSync(
  new URL('../baton.schema.json', import.meta.url),
  `${JSON.stringify(jsonSchema(), undefined, 2)}\n`,
)
