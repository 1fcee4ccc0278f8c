import { spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, readdirSync, readFileSync, rmdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import type { Test } from 'tap'
import { eventually } from './eventually.ts'
import { cleanEnvironment, Program } from './process.ts'

const SYSTEMD = ['/usr/lib/systemd/systemd', '/lib/systemd/systemd'].find(existsSync)

/** Folders of this process's control group: of the hierarchies in which systemd has groups of its own. */
function controlGroups(): string[] {
  return readFileSync('/proc/self/cgroup', 'utf8')
    .trim()
    .split('\n')
    .flatMap((line) => {
      const [, controllers = '', path = ''] = line.split(':')
      if (controllers === 'name=systemd') return [join('/sys/fs/cgroup/systemd', path)]
      if (controllers !== '') return []
      const unified = '/sys/fs/cgroup/unified'
      return [join(existsSync(unified) ? unified : '/sys/fs/cgroup', path)]
    })
}

/** Why no systemd can be started here; false if one can. */
export const lacksSystemd: string | false =
  process.getuid?.() !== 0 || SYSTEMD === undefined || !controlGroups().every(isWritable)
    ? 'needs root, systemd and control groups'
    : false

function isWritable(group: string): boolean {
  const folder = join(group, `baton-check-${process.pid}`)
  try {
    mkdirSync(folder)
    rmdirSync(folder)
    return true
  } catch {
    return false
  }
}

/** In this process. */
let started = 0

/** Targets that systemd wants to have. */
const TARGETS = ['default', 'basic', 'shutdown', 'exit', 'sysinit']

/**
 * A real systemd: a user's manager with no units but the test's, in control groups and with a /run of its own. Everything that it has started ends with
 * the test.
 */
export class ServiceManager {
  readonly folder: string
  readonly #groups: readonly string[]

  static async start(t: Test, folder: string): Promise<ServiceManager> {
    const manager = new ServiceManager(t, folder)
    await eventually(() => existsSync(join(folder, 'systemd/private')), 'systemd answers')
    return manager
  }

  private constructor(t: Test, folder: string) {
    this.folder = folder
    started += 1
    this.#groups = controlGroups().map((group) => join(group, `baton-test-${process.pid}-${started}`))
    for (const group of this.#groups) mkdirSync(group)
    for (const target of TARGETS) this.write(`${target}.target`, '[Unit]\nDefaultDependencies=no\n')
    const enter = this.#groups.map((group) => `echo $$ > ${group}/cgroup.procs`).join('; ')
    // A user's manager starts only where the system's seems to run.
    const inside = `mount -t tmpfs tmpfs /run && mkdir -p /run/systemd/system && exec "$@" --user`
    const script = `${enter}; exec unshare --mount --propagation private sh -c '${inside}' sh ${SYSTEMD}`
    const env = { XDG_RUNTIME_DIR: folder, SYSTEMD_UNIT_PATH: folder, SYSTEMD_LOG_TARGET: 'console' }
    t.teardown(() => this.#end())
    void new Program(t, 'sh', ['-c', script], { env, group: true })
  }

  /** Adds or replaces a unit. */
  write(name: string, text: string): void {
    writeFileSync(join(this.folder, name), text)
  }

  /** @returns what `systemctl` prints */
  ctl(...args: readonly string[]): string {
    const env = cleanEnvironment({ XDG_RUNTIME_DIR: this.folder })
    const { status, stdout, stderr } = spawnSync('systemctl', ['--user', ...args], { env, encoding: 'utf8' })
    if (status !== 0) throw new Error(`systemctl ${args.join(' ')}: ${stdout}${stderr}`)
    return stdout.trim()
  }

  property(unit: string, name: string): string {
    return this.ctl('show', '--property', name, '--value', unit)
  }

  async #end(): Promise<void> {
    for (const group of this.#groups) {
      if (existsSync(join(group, 'cgroup.kill'))) writeFileSync(join(group, 'cgroup.kill'), '1')
    }
    for (const group of this.#groups) await eventually(() => removed(group), 'its control groups are empty')
  }
}

/** Removes a control group with all below it, once they have no process. */
function removed(group: string): boolean {
  if (!existsSync(group)) return true
  for (const entry of readdirSync(group, { withFileTypes: true }))
    if (entry.isDirectory()) removed(join(group, entry.name))
  try {
    rmdirSync(group)
    return true
  } catch {
    return false
  }
}
