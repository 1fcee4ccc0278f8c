import { execFileSync } from 'node:child_process'
import { readdirSync } from 'node:fs'
import { join } from 'node:path'
import { cleanEnvironment, root } from './process.ts'

/** Folders of the packages that are published, each before those that need it. */
export const PACKAGES = ['native-sendmsg', 'backend-sdk', 'broker']

/** The tarballs of the built packages, in that order, as `npm publish` would upload them; made in `folder`. */
export function packAll(folder: string): string[] {
  const workspaces = PACKAGES.flatMap((name) => ['--workspace', join('packages', name)])
  const args = ['pack', '--silent', '--ignore-scripts', '--pack-destination', folder, ...workspaces]
  execFileSync('npm', args, { cwd: root, env: cleanEnvironment() })
  const files = readdirSync(folder)
  return PACKAGES.map((name) => join(folder, files.find((file) => file.includes(name)) ?? name))
}
