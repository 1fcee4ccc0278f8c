// Programs that are not ours: found, else installed, else left out by name.
import { execFile, spawnSync } from 'node:child_process'
import { existsSync, mkdirSync } from 'node:fs'
import { delimiter, join } from 'node:path'
import { promisify } from 'node:util'
import { LeftOut } from './peers/peer.mjs'
import { CACHE } from './scratch.mjs'

const run = promisify(execFile)

/** A program, and the Debian packages that it comes with. */
const PACKAGES = {
  ab: ['apache2-utils'],
  cc: ['gcc', 'libc6-dev'],
  haproxy: ['haproxy'],
  nginx: ['nginx'],
  wrk: ['wrk'],
}
/** Debian starts these when it installs them. */
const SERVICES = ['haproxy', 'nginx']

const PM2 = 'pm2@6.0.13'
const PM2_FOLDER = join(CACHE, PM2)
const PM2_COMMAND = join(PM2_FOLDER, 'node_modules/.bin/pm2')
/** Milliseconds; a registry that does not answer must not stop the rest. */
const PM2_PATIENCE = 60_000

/** Where daemons are is not in every user's PATH. */
const FOLDERS = [...(process.env.PATH ?? '').split(delimiter), '/usr/sbin', '/sbin', '/usr/local/sbin']

/** @param {string} name @returns {string | undefined} its path */
export function found(name) {
  return FOLDERS.map((folder) => join(folder, name)).find(existsSync)
}

/** @returns {string[] | undefined} what stands before a command of root's */
function asRoot() {
  if (process.getuid() === 0) return []
  return spawnSync('sudo', ['-n', 'true']).status === 0 ? ['sudo', '-n'] : undefined
}

/** Not twice: what could not be had will not be had a moment later. @type {Set<string>} */
const tried = new Set()

/**
 * Installs a program with apt-get, where that needs no password or question.
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
 * @throws {LeftOut} it is not here, and could not be installed
 */
export function needed(name) {
  if (found(name) === undefined) install(name)
  const path = found(name)
  if (path === undefined) throw new LeftOut(`there is no ${name} here, and it could not be installed`)
  return path
}

/** Installed once. @returns {Promise<string>} the path of the `pm2` command @throws {LeftOut} */
export async function pm2Command() {
  if (existsSync(PM2_COMMAND)) return PM2_COMMAND
  mkdirSync(PM2_FOLDER, { recursive: true })
  try {
    await run('npm', ['install', '--no-audit', '--no-fund', '--prefix', PM2_FOLDER, PM2], {
      timeout: PM2_PATIENCE,
    })
  } catch (error) {
    throw new LeftOut(`${PM2} could not be installed: ${error.message.split('\n')[0]}`)
  }
  return PM2_COMMAND
}

/** @returns {string | undefined} */
export const pm2Version = () => (existsSync(PM2_COMMAND) ? PM2.split('@')[1] : undefined)
