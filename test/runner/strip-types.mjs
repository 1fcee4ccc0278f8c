// Node runs TypeScript by stripping its types from 22.18 on; this does the same for older versions with the same
// compiler. Lines and columns stay the same, so no source maps are needed.
import module from 'node:module'

// A registered hook makes each module that is loaded after it slower, in a thread of its own: tap's are loaded before.
if (!process.features.typescript && /\.test\.ts$|\/group\.mjs$/.test(process.argv[1] ?? ''))
  await import('tap')

if (!process.features.typescript) module.register('./strip-types-hooks.mjs', import.meta.url)
