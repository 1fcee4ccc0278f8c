import { statSync } from 'node:fs'
import { isAbsolute, join } from 'node:path'
import { exposureOf, type Identity, makeFolder } from './listening/runtime-folder.ts'

const OTHERS_WRITE = 0o022

/** `node:module` from Node 22.1 on. */
interface Compiling {
  readonly enableCompileCache?: (folder: string) => unknown
  readonly flushCompileCache?: () => void
}

const compiling = () => process.getBuiltinModule('node:module') as Compiling

/**
 * Keeps the machine code that V8 compiles for this program, for the next start: an eighth of the processor time of one. Not before Node 22.1, and
 * not without a folder that is safe. Node writes it at exit.
 */
export function keepCompiledCode(env: NodeJS.ProcessEnv = process.env): void {
  const { enableCompileCache } = compiling()
  // The user's own wish has precedence; Node follows it by itself.
  if (enableCompileCache === undefined || env['NODE_COMPILE_CACHE'] !== undefined) return
  const folder = cacheFolder(env, { uid: process.getuid?.() ?? -1, gid: process.getgid?.() ?? -1 })
  if (folder !== undefined) enableCompileCache(folder)
}

/** Writes it now: an exec ends a program without an exit. Does not throw. */
export function writeCompiledCode(): void {
  try {
    compiling().flushCompileCache?.()
  } catch {
    // The next start compiles again.
  }
}

/**
 * A folder of this user's, which is created: code from it is executed, so no other user may be able to write it.
 *
 * @returns undefined if there is none
 */
export function cacheFolder(env: NodeJS.ProcessEnv, user: Identity): string | undefined {
  // systemd's `CacheDirectory=`: a list.
  const given = env['CACHE_DIRECTORY']?.split(':')[0]
  const home = env['HOME']
  const base = given ?? env['XDG_CACHE_HOME'] ?? (home === undefined ? undefined : join(home, '.cache'))
  if (base === undefined || !isAbsolute(base)) return undefined
  const folder = join(base, 'baton')
  try {
    // First: with `sudo`, HOME may be another user's, who would get folders of root's.
    if (exposureOf(folder, user) !== undefined) return undefined
    makeFolder(folder, 0o700)
    // Again: a folder above it may be another user's, who was faster.
    if (exposureOf(folder, user) !== undefined) return undefined
    const { uid, mode } = statSync(folder)
    return uid === user.uid && (mode & OTHERS_WRITE) === 0 ? folder : undefined
  } catch {
    // A read-only disk, or a file in the way: without.
    return undefined
  }
}
