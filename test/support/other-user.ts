import { spawnSync } from 'node:child_process'
import { cleanEnvironment, root } from './process.ts'

/** The user of processes without privileges, in tests that run as root. */
export const NOBODY = 65_534

/** Whether a program of this repository can be run as that user: needs root, and no private folder above the repository. */
export const canBeNobody =
  process.getuid?.() === 0 &&
  spawnSync(process.execPath, ['--input-type=module', '-e', "import '@baton/backend-sdk'"], {
    cwd: root,
    uid: NOBODY,
    env: cleanEnvironment(),
  }).status === 0

/** As options of a test that runs one. */
export const onlyAsRoot = { skip: !canBeNobody && 'needs root, and a repository that all can read' }

/** As options of a test that runs Node alone as that user, without any file of the repository. */
export const onlyWithNode = {
  skip:
    (process.getuid?.() !== 0 ||
      spawnSync(process.execPath, ['--version'], { cwd: '/', uid: NOBODY }).status !== 0) &&
    'needs root, and a Node that all can run',
}
