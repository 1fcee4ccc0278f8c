// Node runs TypeScript by stripping its types from 22.18 on; this does the same for older versions with the same
// compiler. Lines and columns stay the same, so no source maps are needed.
import module from 'node:module'

if (!process.features.typescript) module.register('./strip-types-hooks.mjs', import.meta.url)
