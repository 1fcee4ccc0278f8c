// Third-party programs: found, otherwise installed, otherwise skipped by name.
import { execFile, spawnSync } from 'node:child_process'
import { existsSync, mkdirSync } from 'node:fs'
import { delimiter, join } from 'node:path'
import { promisify } from 'node:util'
import { LeftOut } from './peers/peer.mjs'
import { CACHE } from './scratch.mjs'

const run = promisify(execFile)

/** Each program, and the Debian packages that contain it. */
const PACKAGES = {
  ab: ['apache2-utils'],
  cc: ['gcc', 'libc6-dev'],
  haproxy: ['haproxy'],
  nginx: ['nginx'],
  wrk: ['wrk'],
}
/** Services that Debian starts on installation. */
const SERVICES = ['haproxy', 'nginx']

const PM2 = '6.0.13'
const pm2Path = (version) => join(CACHE, `pm2@${version}`, 'node_modules/.bin/pm2')
/** Milliseconds; an unresponsive registry must not block the other measures. */
const PM2_TIMEOUT_MS = 60_000

/** Daemons live in folders that are not in every user's PATH. */
const FOLDERS = [...(process.env.PATH ?? '').split(delimiter), '/usr/sbin', '/sbin', '/usr/local/sbin']

/** @param {string} name @returns {string | undefined} its path */
export function found(name) {
  return FOLDERS.map((folder) => join(folder, name)).find(existsSync)
}

/** @returns {string[] | undefined} the prefix for commands that need root */
function asRoot() {
  if (process.getuid() === 0) return []
  return spawnSync('sudo', ['-n', 'true']).status === 0 ? ['sudo', '-n'] : undefined
}

/** An installation that has failed is not tried again. @type {Set<string>} */
const tried = new Set()

/**
 * Installs a program with apt-get, if that needs no password or confirmation.
 *
 * @param {keyof typeof PACKAGES} name
 */
function install(name) {
  const root = tried.has(name) || found('apt-get') === undefined ? undefined : asRoot()
  if (root === undefined) return
  console.error(`installing ${PACKAGES[name].join(', ')}`)
  const call = (...command) => {
    const [program, ...args] = [...root, ...command]
    spawnSync(program, args, { stdio: ['ignore', 'ignore', 'inherit'] })
  }
  const apt = ['env', 'DEBIAN_FRONTEND=noninteractive', 'apt-get', '-qq']
  if (tried.size === 0) call(...apt, 'update')
  call(...apt, 'install', '-y', '--no-install-recommends', ...PACKAGES[name])
  if (SERVICES.includes(name) && existsSync('/run/systemd/system')) call('systemctl', 'stop', name)
  tried.add(name)
}

/**
 * @param {keyof typeof PACKAGES} name
 * @returns {string} its path
 * @throws {LeftOut} if it is not installed and cannot be
 */
export function needed(name) {
  if (found(name) === undefined) install(name)
  const path = found(name)
  if (path === undefined) throw new LeftOut(`${name} is not installed, and could not be installed`)
  return path
}

/**
 * Installed once.
 *
 * @param {string} [version]
 * @returns {Promise<string>} the path of the `pm2` command
 * @throws {LeftOut}
 */
export async function pm2Command(version = PM2) {
  const command = pm2Path(version)
  if (existsSync(command)) return command
  const folder = join(CACHE, `pm2@${version}`)
  mkdirSync(folder, { recursive: true })
  try {
    await run('npm', ['install', '--no-audit', '--no-fund', '--prefix', folder, `pm2@${version}`], {
      timeout: PM2_TIMEOUT_MS,
    })
  } catch (error) {
    throw new LeftOut(`pm2@${version} could not be installed: ${error.message.split('\n')[0]}`)
  }
  return command
}

/** @returns {string | undefined} */
export const pm2Version = () => (existsSync(pm2Path(PM2)) ? PM2 : undefined)
