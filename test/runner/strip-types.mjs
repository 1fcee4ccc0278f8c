// Node runs TypeScript by leaving its types out from 22.18 on; for the lines before, this does the same with the same
// compiler. Lines and columns stay what they are, so no source maps are needed.
import module from 'node:module'

if (!process.features.typescript) module.register('./strip-types-hooks.mjs', import.meta.url)
