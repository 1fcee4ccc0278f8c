// A measurement on other release lines of Node.
import { spawnSync } from 'node:child_process'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { installedNode } from '../scripts/node-release.mjs'

/**
 * Runs a program on the newest release of each line, one after the other, with the arguments of this process but for `--node`.
 *
 * @param {readonly string[]} lines
 * @param {string} url of the program
 * @returns {boolean} whether all have succeeded
 */
export function onEachLine(lines, url) {
  const args = process.argv
    .slice(2)
    .filter(
      (argument, index, all) =>
        argument !== '--node' && all[index - 1] !== '--node' && !argument.startsWith('--node='),
    )
  return lines
    .map((line) =>
      spawnSync(join(installedNode(line).bin, 'node'), [fileURLToPath(url), ...args], { stdio: 'inherit' }),
    )
    .every(({ status }) => status === 0)
}
