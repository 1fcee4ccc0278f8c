// `npm test`: installs and builds what is missing or out of date, then runs the tests (run.mjs), so that no test sees a
// stale build, however the runner was started. A run within a test uses the build of the run around it.
import { MARK } from './leftovers.mjs'

if (process.env[MARK] === undefined) await import('../../scripts/setup.mjs')
await import('./run.mjs')
