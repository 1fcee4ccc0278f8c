import { userInfo } from 'node:os'
import { resolve } from 'node:path'
import { logicalFolder, throughLinks } from '../../config/working-folder.ts'
import { DONE } from '../../exit-codes.ts'
import { configOption, DEFAULT_CONFIG, type Command, type Invocation } from '../command.ts'
import { type Terminal, UsageError } from '../output/terminal.ts'
import { type InstalledUnit, installUnit, type UnitScope } from '../install-unit.ts'
import { unitOf } from '../systemd-unit.ts'
import { loadServed } from './check.ts'
import { SUMMARIES } from '../summaries.ts'

/** Where there is no systemd to ask: the first version with all that a unit can use. */
const NEWEST_USED = 254

export const systemd: Command = {
  name: 'systemd',
  operands: [],
  summary: SUMMARIES.systemd,
  details: [
    'Prints a unit for `baton start` with this configuration: notifications, watchdog, limits, sandbox, and a store in which systemd keeps',
    'sockets and waiting connections over a restart.',
    '',
    'With --install, writes it to /etc/systemd/system if you are root, and to ~/.config/systemd/user otherwise, and prints the two',
    'commands that start it. A different unit of this name is kept, and the exit code is 1, unless there is --force.',
  ].join('\n'),
  options: {
    user: { value: 'USER', help: 'user that runs the broker (default: yours, or "baton" if you are root)' },
    install: { help: 'write the unit to the folder where systemd looks for it' },
    scope: {
      value: 'system|user',
      help: 'whose systemd runs it (default: system; with --install, user if you are not root)',
    },
    name: { value: 'NAME', help: 'with --install: name of the unit (default: baton)' },
    force: { help: 'with --install: replace a different unit' },
    json: { help: 'with --install: print path, changed and commands' },
    'for-version': { value: 'N', help: 'version of systemd (default: the one of this machine)' },
    ...configOption,
  },
  async run(given, terminal) {
    const { values } = given
    const version = versionOf(values.get('for-version'))
    const install = installOf(given)
    const scope = scopeOf(values, install !== undefined)
    const config = await loadServed(values.get('config') ?? DEFAULT_CONFIG, terminal)
    const folder = logicalFolder(process.env, process.cwd())
    const script = throughLinks(resolve(process.argv[1] ?? ''), folder, process.cwd())
    const unit = unitOf(config, {
      version,
      user:
        scope === 'user'
          ? undefined
          : (values.get('user') ?? (process.getuid?.() === 0 ? 'baton' : userInfo().username)),
      program: [process.execPath, script],
      file: resolve(folder, values.get('config') ?? DEFAULT_CONFIG),
    })
    if (install === undefined) terminal.out(unit)
    else report(installUnit(`${unit}\n`, { scope, ...install }), install.json, scope, terminal)
    if (scope === 'system' && !config.runtimeDir.startsWith('/run/'))
      terminal.err(
        `baton: runtimeDir is ${config.runtimeDir}; under systemd, /run/baton is created and removed with the service`,
      )
    return DONE
  },
}

/** @throws {UsageError} */
function scopeOf(values: Invocation['values'], installs: boolean): UnitScope {
  const isOwn = installs && process.getuid?.() !== 0 && !values.has('user')
  const scope = values.get('scope') ?? (isOwn ? 'user' : 'system')
  if (scope !== 'system' && scope !== 'user')
    throw new UsageError(`--scope: ${JSON.stringify(scope)} must be "system" or "user"`)
  if (scope === 'user' && values.has('user'))
    throw new UsageError('--user goes without --scope user: that unit runs as its own user')
  return scope
}

/** Characters of a unit's name that need no escapes (systemd.unit(5)). */
const UNIT_NAME = /^[\w.:-]{1,200}$/

/** Undefined without --install. @throws {UsageError} */
function installOf({
  values,
  switches,
}: Invocation): { name: string; force: boolean; json: boolean } | undefined {
  if (switches.has('install')) {
    const name = (values.get('name') ?? 'baton').replace(/\.service$/, '')
    if (!UNIT_NAME.test(name))
      throw new UsageError(`--name: ${JSON.stringify(name)} is not a name of a unit, such as "baton"`)
    return { name, force: switches.has('force'), json: switches.has('json') }
  }
  const other = values.has('name') ? 'name' : ['force', 'json'].find((each) => switches.has(each))
  if (other !== undefined) throw new UsageError(`--${other} goes with --install`)
  return undefined
}

function report(installed: InstalledUnit, json: boolean, scope: UnitScope, terminal: Terminal): void {
  if (json) return terminal.out(JSON.stringify(installed, undefined, 2))
  const { path, changed, commands } = installed
  terminal.out(
    changed ? `wrote ${path}; to start it:` : `${path} is there already, and the same; to start it:`,
  )
  for (const command of commands) terminal.out(`  ${command}`)
  if (scope === 'user') terminal.out('so that it runs while you are not logged in: loginctl enable-linger')
}

/** @throws {UsageError} */
function versionOf(text: string | undefined): number {
  if (text === undefined) return installedVersion() ?? NEWEST_USED
  if (!/^[1-9]\d{0,3}$/.test(text))
    throw new UsageError(`--for-version: ${JSON.stringify(text)} is not a version of systemd, such as 254`)
  return Number(text)
}

/** `systemd 252 (252.38-1~deb12u1)` */
function installedVersion(): number | undefined {
  const { stdout } = process
    .getBuiltinModule('node:child_process')
    .spawnSync('systemctl', ['--version'], { encoding: 'utf8' })
  const version = /^systemd (\d+)/.exec(stdout ?? '')?.[1]
  return version === undefined ? undefined : Number(version)
}
