import { spawnSync } from 'node:child_process'
import { userInfo } from 'node:os'
import { resolve } from 'node:path'
import { logicalFolder, throughLinks } from '../../config/working-folder.ts'
import { DONE } from '../../exit-codes.ts'
import { configOption, DEFAULT_CONFIG, type Command } from '../command.ts'
import { UsageError } from '../output/terminal.ts'
import { unitOf } from '../systemd-unit.ts'
import { loadServed } from './check.ts'

/** Where there is no systemd to ask: the first version with all that a unit can use. */
const NEWEST_USED = 254

export const systemd: Command = {
  name: 'systemd',
  operands: [],
  summary: 'print a systemd unit for the broker',
  details: [
    'Prints a unit for `baton start` with this configuration: notifications, watchdog, limits, sandbox, and a store in which systemd keeps',
    'sockets and waiting connections over a restart. Put it into a file, and start it:',
    '  baton systemd --config /etc/baton/baton.json --user baton > /etc/systemd/system/baton.service',
    '  systemctl daemon-reload && systemctl enable --now baton',
  ].join('\n'),
  options: {
    user: { value: 'USER', help: 'user that runs the broker (default: yours, or "baton" if you are root)' },
    'for-version': { value: 'N', help: 'version of systemd (default: the one of this machine)' },
    ...configOption,
  },
  async run({ values }, terminal) {
    const version = versionOf(values.get('for-version'))
    const config = await loadServed(values.get('config') ?? DEFAULT_CONFIG, terminal)
    const folder = logicalFolder(process.env, process.cwd())
    const script = throughLinks(resolve(process.argv[1] ?? ''), folder, process.cwd())
    terminal.out(
      unitOf(config, {
        version,
        user: values.get('user') ?? (process.getuid?.() === 0 ? 'baton' : userInfo().username),
        program: [process.execPath, script],
        file: resolve(folder, values.get('config') ?? DEFAULT_CONFIG),
      }),
    )
    if (!config.runtimeDir.startsWith('/run/'))
      terminal.err(
        `baton: runtimeDir is ${config.runtimeDir}; under systemd, /run/baton is created and removed with the service`,
      )
    return DONE
  },
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
  const { stdout } = spawnSync('systemctl', ['--version'], { encoding: 'utf8' })
  const version = /^systemd (\d+)/.exec(stdout ?? '')?.[1]
  return version === undefined ? undefined : Number(version)
}
