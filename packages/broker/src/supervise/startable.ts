import { accessSync, closeSync, constants, openSync, readSync, type Stats, statSync } from 'node:fs'
import { basename, join } from 'node:path'
import { errnoOf } from '../config/error.ts'

/** Exit codes for a command that could not be started, as used by env(1) and shells. */
export const CANNOT_EXECUTE = 126
export const NOT_FOUND = 127

/** Why a command cannot be started. */
export interface Unstartable {
  readonly code: typeof CANNOT_EXECUTE | typeof NOT_FOUND
  /** Names the command, the system's answer and what to do. */
  readonly reason: string
}

/** execve(2) reads no more of a script's first line than this. */
const FIRST_BYTES = 256

/** Searched by execvp(3) if PATH is not set. */
const DEFAULT_PATH = '/bin:/usr/bin'

/**
 * Checks what exec would refuse, before anything is opened. The file may still change before it is executed; then the error of exec itself
 * counts (`unstartableBy`).
 */
export function unstartable(
  command: readonly string[],
  cwd: string,
  path: string = DEFAULT_PATH,
): Unstartable | undefined {
  const [program = ''] = command
  const inCwd = checkFolder(cwd)
  if (inCwd !== undefined) return refuse(program, inCwd)
  const found = find(program, cwd, path)
  if ('problem' in found) return refuse(program, found.problem)
  const problem = checkFile(found.file, cwd, path)
  return problem && refuse(program, problem)
}

/** The same for an error of spawn(3) or exec. */
export function unstartableBy(program: string, errno: string | undefined): Unstartable {
  const why = errno === 'ENOENT' ? 'it was not found, or its interpreter was not' : 'it cannot be executed'
  return refuse(program, { errno: errno ?? 'unknown error', why })
}

interface Problem {
  readonly errno: string
  readonly why: string
}

function refuse(program: string, { errno, why }: Problem): Unstartable {
  return {
    code: errno === 'ENOENT' ? NOT_FOUND : CANNOT_EXECUTE,
    reason: `cannot start ${JSON.stringify(program)}: ${why} (${errno})`,
  }
}

function checkFolder(cwd: string): Problem | undefined {
  const stats = statOf(cwd)
  if (typeof stats === 'string') return { errno: stats, why: `the working folder ${cwd} cannot be used` }
  if (!stats.isDirectory()) return { errno: 'ENOTDIR', why: `the working folder ${cwd} is not a folder` }
  if (!mayExecute(cwd)) return { errno: 'EACCES', why: `the working folder ${cwd} cannot be entered` }
  return undefined
}

/** Like execvp(3): a name with a slash is a path, any other name is looked up, and files that may not be executed are skipped. */
function find(program: string, cwd: string, path: string): { file: string } | { problem: Problem } {
  if (program === '') return { problem: { errno: 'ENOENT', why: 'it has no name' } }
  if (program.includes('/')) {
    const file = program.startsWith('/') ? program : join(cwd, program)
    const problem = checkAccess(file, program)
    return problem === undefined ? { file } : { problem }
  }
  let denied: Problem | undefined
  for (const folder of path.split(':')) {
    const file = join(folder === '' ? cwd : folder.startsWith('/') ? folder : join(cwd, folder), program)
    const problem = checkAccess(file, program)
    if (problem === undefined) return { file }
    if (problem.errno === 'EACCES') denied ??= { ...problem, why: `${file}: ${problem.why}` }
  }
  return { problem: denied ?? { errno: 'ENOENT', why: notFound(program, cwd) } }
}

function notFound(program: string, cwd: string): string {
  if (/\s/.test(program)) return 'there is no such program; pass its arguments as separate words'
  const here = statOf(join(cwd, program))
  if (typeof here !== 'string' && here.isFile())
    return `it is not in PATH; to run the file in this folder, write ./${program} or node ${program}`
  return 'it is not in PATH'
}

function checkAccess(file: string, program: string): Problem | undefined {
  const stats = statOf(file)
  if (typeof stats === 'string') {
    const why = stats === 'ENOENT' ? 'there is no such file' : 'the file cannot be used'
    return { errno: stats, why }
  }
  if (stats.isDirectory()) return { errno: 'EACCES', why: 'it is a folder' }
  if (!stats.isFile()) return { errno: 'EACCES', why: 'it is not a regular file' }
  if (mayExecute(file)) return undefined
  const how = /\.[cm]?[jt]s$/.test(program) ? `; write node ${program}, or chmod +x it` : '; chmod +x it'
  return { errno: 'EACCES', why: `it is not executable${how}` }
}

/** Checks the beginning of the file: the interpreter that a script names has to exist, too. */
function checkFile(file: string, cwd: string, path: string): Problem | undefined {
  const start = firstBytes(file)
  // Executable but not readable: left to the kernel.
  if (start === undefined) return undefined
  const text = start.toString('latin1')
  if (text.startsWith('\u007fELF')) return undefined
  const line = text.split('\n', 1)[0] ?? ''
  if (text.startsWith('#!')) return checkInterpreter(line, cwd, path)
  // execvp(3) passes other files to sh(1), which is right only for text.
  return line.includes('\0') ? { errno: 'ENOEXEC', why: 'it is neither a program nor a script' } : undefined
}

function checkInterpreter(line: string, cwd: string, path: string): Problem | undefined {
  const [, interpreter = '', argument = ''] = /^#![ \t]*([^ \t]*)[ \t]*(.*?)[ \t]*$/.exec(line) ?? []
  if (interpreter.endsWith('\r'))
    return { errno: 'ENOENT', why: 'its first line ends with CR LF; write it with LF alone' }
  const file = interpreter.startsWith('/') ? interpreter : join(cwd, interpreter)
  const problem = interpreter === '' ? undefined : checkAccess(file, interpreter)
  if (problem !== undefined) return { ...problem, why: `its interpreter ${interpreter}: ${problem.why}` }
  // `#!/usr/bin/env node`: env would report it only at each start of the program.
  if (basename(interpreter) !== 'env' || argument === '' || /^-|[=\s]/.test(argument)) return undefined
  const found = find(argument, cwd, path)
  if (!('problem' in found)) return undefined
  return { ...found.problem, why: `its interpreter ${argument}: ${found.problem.why}` }
}

function statOf(path: string): Stats | string {
  try {
    return statSync(path)
  } catch (error) {
    return errnoOf(error) ?? String(error)
  }
}

function mayExecute(path: string): boolean {
  try {
    accessSync(path, constants.X_OK)
    return true
  } catch {
    return false
  }
}

function firstBytes(file: string): Buffer | undefined {
  let fd: number
  try {
    fd = openSync(file, 'r')
  } catch {
    return undefined
  }
  try {
    const bytes = Buffer.alloc(FIRST_BYTES)
    return bytes.subarray(0, readSync(fd, bytes, 0, FIRST_BYTES, 0))
  } finally {
    closeSync(fd)
  }
}
