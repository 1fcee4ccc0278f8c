import { existsSync, mkdirSync } from 'node:fs'
import { dirname } from 'node:path'
import { errnoOf } from '../config/index.ts'

/**
 * Makes a folder and those above it that are missing. `recursive` of mkdirSync does not return where mkdir(2) answers ENOENT although
 * the folder above is there, as below /proc (Node 20 to 24).
 *
 * @throws {Error} of mkdir(2)
 */
export function makeFolder(path: string, mode: number): void {
  try {
    mkdirSync(path, { mode })
  } catch (error) {
    const errno = errnoOf(error)
    // What is there may be something else: the caller looks.
    if (errno === 'EEXIST') return
    const above = dirname(path)
    if (errno !== 'ENOENT' || above === path || existsSync(above)) throw error
    makeFolder(above, mode)
    try {
      mkdirSync(path, { mode })
    } catch (failure) {
      // Again ENOENT where the one above is a link to nothing.
      if (errnoOf(failure) !== 'EEXIST') throw failure
    }
  }
}
