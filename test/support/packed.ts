import { execFileSync } from 'node:child_process'
import { readdirSync } from 'node:fs'
import { join } from 'node:path'
import { cleanEnvironment, root } from './process.ts'

/** Folders of the published packages; a package comes after its dependencies. */
export const PACKAGES = ['native-sendmsg', 'backend-sdk', 'broker']

/** Packs the built packages into `folder`, as `npm publish` would. Returns the paths of the tarballs, in the order of PACKAGES. */
export function packAll(folder: string): string[] {
  const workspaces = PACKAGES.flatMap((name) => ['--workspace', join('packages', name)])
  const args = ['pack', '--silent', '--ignore-scripts', '--pack-destination', folder, ...workspaces]
  execFileSync('npm', args, { cwd: root, env: cleanEnvironment() })
  const files = readdirSync(folder)
  return PACKAGES.map((name) => join(folder, files.find((file) => file.includes(name)) ?? name))
}
