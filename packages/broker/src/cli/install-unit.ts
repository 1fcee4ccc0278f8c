import { mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { homedir } from 'node:os'
import { dirname, join } from 'node:path'
import { errnoOf } from '../config/error.ts'
import { CommandError } from '../exit-codes.ts'

/** The service manager that runs the unit: that of the host, or that of one user. */
export type UnitScope = 'system' | 'user'

export interface InstalledUnit {
  readonly path: string
  /** False if the file was the same already. */
  readonly changed: boolean
  /** They enable and start it. */
  readonly commands: readonly [string, string]
}

/** Where an administrator, or a user, puts units (systemd.unit(5)). */
function unitFolder(scope: UnitScope, env: NodeJS.ProcessEnv): string {
  if (scope === 'system') return '/etc/systemd/system'
  const base = env['XDG_CONFIG_HOME']
  return join(base?.startsWith('/') === true ? base : join(homedir(), '.config'), 'systemd/user')
}

/**
 * Writes a unit as a whole, or not at all. systemd itself is not called.
 *
 * @param force replaces a file with other content
 * @throws {CommandError} there is such a file, or it cannot be written; then nothing has changed
 */
export function installUnit(
  text: string,
  { scope, name, force }: { scope: UnitScope; name: string; force: boolean },
  env: NodeJS.ProcessEnv = process.env,
): InstalledUnit {
  const path = join(unitFolder(scope, env), `${name}.service`)
  const systemctl = scope === 'user' ? 'systemctl --user' : 'systemctl'
  const commands = [`${systemctl} daemon-reload`, `${systemctl} enable --now ${name}`] as const
  const found = contentOf(path)
  if (found === text) return { path, changed: false, commands }
  if (found !== undefined && !force)
    throw new CommandError(`${path} exists and differs; --force replaces it. Nothing was changed`)
  try {
    mkdirSync(dirname(path), { recursive: true })
    writeWhole(path, text)
  } catch (error) {
    const hint =
      scope === 'system' && process.getuid?.() !== 0 ? '; run it as root, or with --scope user' : ''
    throw new CommandError(`cannot write ${path} (${errnoOf(error) ?? String(error)})${hint}`, {
      cause: error,
    })
  }
  return { path, changed: true, commands }
}

function writeWhole(path: string, text: string): void {
  const whole = `${path}.${process.pid}.new`
  try {
    writeFileSync(whole, text, { mode: 0o644, flag: 'wx' })
    renameSync(whole, path)
  } catch (error) {
    rmSync(whole, { force: true })
    throw error
  }
}

/** Undefined if there is nothing. */
function contentOf(path: string): string | undefined {
  try {
    return readFileSync(path, 'utf8')
  } catch (error) {
    if (['ENOENT', 'ENOTDIR'].includes(errnoOf(error) ?? '')) return undefined
    throw new CommandError(`cannot read ${path} (${errnoOf(error) ?? String(error)})`, { cause: error })
  }
}
