import { dirname } from 'node:path'
import type { Address } from '../config/address.ts'
import type { Config } from '../config/config.ts'

/** Everything that a unit depends on, besides the configuration. */
export interface UnitFacts {
  /** Version of systemd. */
  readonly version: number
  /** Undefined: the unit of a user, whose service manager runs it. */
  readonly user: string | undefined
  /** Absolute paths: Node, then the `baton` command. */
  readonly program: readonly string[]
  /** Absolute path of the configuration. */
  readonly file: string
}

type UnitConfig = Pick<
  Config,
  'runtimeDir' | 'workerTimeout' | 'admin' | 'agentCheck' | 'listeners' | 'services'
>

/** First version with `Type=notify-reload`, and first one with `FileDescriptorStorePreserve=`. */
const NOTIFY_RELOAD = 253
const PRESERVE = 254

/** Minimum time for a program to start twice over on a busy machine, in seconds. */
const MIN_WATCHDOG = 30

const MIN_DESCRIPTORS = 131_072

/** Connections that systemd has room for. Its work grows with the square of this. */
const STORED_CONNECTIONS = 1024

/** Ports below need a capability. */
const FIRST_FREE_PORT = 1024

const SANDBOX = ['# All of the following also applies to managed backends.', 'NoNewPrivileges=yes']

const SYSTEM_CALLS = [
  'RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK',
  'RestrictNamespaces=yes',
  'RestrictRealtime=yes',
  'RestrictSUIDSGID=yes',
  'LockPersonality=yes',
  'SystemCallArchitectures=native',
  'SystemCallFilter=@system-service @pkey',
  'SystemCallErrorNumber=EPERM',
]

/** The service manager of a user can neither change capabilities nor mount file systems. */
const USER_SANDBOX = [...SANDBOX, ...SYSTEM_CALLS]

/** The unit of a broker with this configuration. */
export function unitOf(config: UnitConfig, { version, user, program, file }: UnitFacts): string {
  const { admin, agentCheck, listeners } = config
  const own = agentCheck === null ? [admin.listen] : [admin.listen, agentCheck]
  const addresses = [...listeners.map(({ listen }) => listen), ...own]
  const command = (name: string) => [...program, name, '--config', file].map(quotedForUnit).join(' ')
  const sections = [
    [
      '[Unit]',
      'Description=Baton, connection broker',
      'After=network.target',
      '',
      '[Service]',
      ...(version >= NOTIFY_RELOAD
        ? [
            '# `systemctl reload` sends SIGHUP, and waits until the reload is over.',
            'Type=notify-reload',
            `ExecStart=${command('start')}`,
          ]
        : ['Type=notify', `ExecStart=${command('start')}`, `ExecReload=${command('reload')}`]),
      ...(user === undefined ? [] : [`User=${user}`, ...runtimeFolder(config.runtimeDir)]),
    ],
    [
      '# SIGTERM goes only to the master, which drains the other processes. Any that remain at the end are killed.',
      'KillMode=mixed',
      '# `drainDeadline` may be longer: the broker asks for more time while it drains.',
      'TimeoutStopSec=45',
      'Restart=on-failure',
      'RestartSec=1',
      '# If the kernel kills a process for lack of memory, the master restarts it, and the service continues.',
      'OOMPolicy=continue',
      '# Half of this must be longer than the program takes to start, and a hung worker is replaced within it.',
      `WatchdogSec=${Math.max(MIN_WATCHDOG, Math.ceil((2 * config.workerTimeout) / 1000))}`,
      '# One descriptor for each waiting client, two while a reload moves them.',
      `LimitNOFILE=${descriptors(config)}`,
      '# Over a restart, and a crash, systemd keeps the listening sockets, and this many connections that wait.',
      `FileDescriptorStoreMax=${STORED_CONNECTIONS}`,
      ...(version >= PRESERVE
        ? [
            '# With `yes`, `systemctl stop` keeps them as well, until the next start.',
            'FileDescriptorStorePreserve=restart',
          ]
        : []),
    ],
    user === undefined
      ? USER_SANDBOX
      : [
          ...SANDBOX,
          ...capabilities(addresses),
          'ProtectSystem=strict',
          ...writablePaths(config, addresses),
          'ProtectHome=read-only',
          ...(isTemporary(config.runtimeDir) ? [] : ['PrivateTmp=yes']),
          'PrivateDevices=yes',
          'ProtectClock=yes',
          'ProtectControlGroups=yes',
          'ProtectHostname=yes',
          'ProtectKernelLogs=yes',
          'ProtectKernelModules=yes',
          'ProtectKernelTunables=yes',
          ...SYSTEM_CALLS,
          '# Not MemoryDenyWriteExecute, because V8 compiles code; not PrivateUsers, because backends are identified by uid.',
        ],
    ['[Install]', `WantedBy=${user === undefined ? 'default.target' : 'multi-user.target'}`],
  ]
  return sections.map((lines) => lines.join('\n')).join('\n\n')
}

/** Its name in RuntimeDirectory=; undefined if it is not in /run. */
function runtimeDirectory(folder: string): string | undefined {
  return folder.startsWith('/run/') ? folder.slice('/run/'.length) : undefined
}

function runtimeFolder(folder: string): string[] {
  const name = runtimeDirectory(folder)
  if (name === undefined) return []
  return [
    `RuntimeDirectory=${quotedForUnit(name)}`,
    '# Unix sockets in it stay over a restart.',
    'RuntimeDirectoryPreserve=restart',
  ]
}

function writablePaths({ runtimeDir }: UnitConfig, addresses: readonly Address[]): string[] {
  const unix = addresses.flatMap((address) => (address.kind === 'unix' ? [dirname(address.path)] : []))
  const inside = (path: string) => path === runtimeDir || path.startsWith(`${runtimeDir}/`)
  const others = new Set(unix.filter((path) => !inside(path)))
  // It must exist for systemd, so its parent.
  if (runtimeDirectory(runtimeDir) === undefined) others.add(dirname(runtimeDir))
  return others.size === 0 ? [] : [`ReadWritePaths=${[...others].map(quotedForUnit).join(' ')}`]
}

function capabilities(addresses: readonly Address[]): string[] {
  const isLow = addresses.some(
    (address) => address.kind === 'tcp' && address.port > 0 && address.port < FIRST_FREE_PORT,
  )
  if (!isLow) return ['CapabilityBoundingSet=']
  return [
    '# For ports below 1024.',
    'CapabilityBoundingSet=CAP_NET_BIND_SERVICE',
    'AmbientCapabilities=CAP_NET_BIND_SERVICE',
  ]
}

function descriptors({ services }: UnitConfig): number {
  const held = [...services.values()].reduce((sum, { maxHeld }) => sum + maxHeld, 0)
  return Math.max(MIN_DESCRIPTORS, 2 ** Math.ceil(Math.log2(2 * held + 1)))
}

function isTemporary(folder: string): boolean {
  return folder.startsWith('/tmp/') || folder.startsWith('/var/tmp/')
}

/** One word of a unit's line (systemd.syntax(7)): `%` and `$` stand for themselves. */
export function quotedForUnit(word: string): string {
  const literal = word.replaceAll('%', '%%').replaceAll('$', () => '$$')
  if (/^[\w@%+=:,./$-]+$/.test(literal)) return literal
  return `"${literal.replaceAll(/["\\]/g, String.raw`\$&`)}"`
}
