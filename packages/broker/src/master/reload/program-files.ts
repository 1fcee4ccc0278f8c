import { lstatSync, readdirSync, readFileSync, realpathSync } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { packageFile } from '../../package-files.ts'

/**
 * The files that this process was loaded from, as they were at its start. Each is known by its inode and by the time of its last change of
 * status, which a program cannot set: an installation changes at least one of them, whatever it does to contents and times.
 */
export class ProgramFiles {
  readonly #atStart: string | undefined

  constructor() {
    this.#atStart = identify(performance.timeOrigin)
  }

  /** Whether a program that is executed now is the same as this one. False where this cannot be told. */
  get areUnchanged(): boolean {
    if (this.#atStart === undefined || hasPreloads()) return false
    return this.#atStart === identify() && !hasRemovedMappings()
  }
}

/**
 * @param begun when loading began: files that have changed since may not be the ones that were loaded
 * @returns undefined if a file cannot be read, or has changed since
 */
function identify(begun = Number.POSITIVE_INFINITY): string | undefined {
  try {
    const parts: string[] = []
    for (const file of programFiles()) {
      const { dev, ino, size, ctimeMs } = lstatSync(file)
      if (ctimeMs >= begun) return undefined
      parts.push(`${file} ${dev} ${ino} ${size} ${ctimeMs}`)
    }
    return parts.join('\n')
  } catch {
    return undefined
  }
}

function programFiles(): string[] {
  const native = realpathSync(fileURLToPath(import.meta.resolve('@baton/native-sendmsg')))
  const ffi = realpathSync(createRequire(native).resolve('koffi'))
  return [
    ...below(realpathSync(fileURLToPath(packageFile('dist/bundle/')))),
    realpathSync(fileURLToPath(packageFile('package.json'))),
    ...below(dirname(native)),
    ffi,
  ].filter((file) => !file.endsWith('.map'))
}

function below(folder: string): string[] {
  return readdirSync(folder, { recursive: true })
    .map((name) => join(folder, String(name)))
    .toSorted()
}

/** Node loads more files than those of the program: they may have changed. */
function hasPreloads(): boolean {
  const options = `${process.env['NODE_OPTIONS'] ?? ''} ${process.execArgv.join(' ')}`
  return /(?:^| )(?:--import|--require|-r|--loader|--experimental-loader)(?:[ =]|$)/.test(options)
}

/** Node itself, or a library or an addon that is loaded, was replaced (proc_pid_maps(5)). */
function hasRemovedMappings(): boolean {
  return /^\S+ \S+ \S+ \S+ [1-9]\d* +\/(?!memfd:).*\.(?:node|so[.\d]*) \(deleted\)$/m.test(
    readFileSync('/proc/self/maps', 'utf8'),
  )
}
