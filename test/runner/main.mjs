// The test runner: installs and builds whatever is missing or out of date, then runs the tests (run.mjs), so that no test runs
// against a stale build. A run within a test uses the build of the outer run.
import { MARK } from './leftovers.mjs'

if (process.env[MARK] === undefined) await import('../../scripts/setup.mjs')
await import('./run.mjs')
