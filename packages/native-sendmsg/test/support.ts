import { spawn, type ChildProcess, type StdioOptions } from 'node:child_process'
import { mkdtempSync, readdirSync, rmSync, fstatSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { SOON } from '../../../test/support/limits.ts'
import { BatonNativeError, EPOLLIN, NativeError, type OwnedFd, type Poller } from '../src/index.ts'

/** The number of open descriptors of this process (every count includes the listing's own one). */
export const openDescriptors = (): number => readdirSync('/proc/self/fd').length

/** Identifies the open file of a descriptor. */
export const identity = (fd: number): string => {
  const { dev, ino } = fstatSync(fd)
  return `${dev}:${ino}`
}

export function present<T>(value: T | undefined): T {
  if (value === undefined) throw new Error('undefined')
  return value
}

/** The code of the error that `call` throws; other errors than the package's are rethrown. */
export function codeOf(call: () => unknown): string {
  try {
    call()
  } catch (error) {
    if (error instanceof NativeError || error instanceof BatonNativeError) return error.code
    throw error
  }
  return 'no error'
}

export function nativeError(call: () => unknown): NativeError {
  try {
    call()
  } catch (error) {
    if (error instanceof NativeError) return error
    throw error
  }
  throw new Error('no error')
}

export function temporaryFolder(t: { teardown(call: () => void): void }): string {
  const folder = mkdtempSync(join(tmpdir(), 'baton-native-'))
  t.teardown(() => rmSync(folder, { recursive: true }))
  return folder
}

export function closing(t: { teardown(call: () => void): void }, ...fds: OwnedFd[]): void {
  t.teardown(() => fds.forEach((fd) => fd.close()))
}

/** Resolves once `fd` is readable. */
export function readable(poller: Poller, fd: number): Promise<void> {
  return new Promise((resolve) => {
    const watch = poller.add(fd, EPOLLIN, () => {
      watch.remove()
      resolve()
    })
  })
}

export interface FixtureOptions {
  stdio?: StdioOptions
  uid?: number
  /** RLIMIT_NOFILE of the child. */
  descriptors?: number
  /** False: as without io_uring. */
  ring?: boolean
}

/**
 * Starts a program from test/fixtures, which uses the built package. The environment is empty (except for `ring`), because
 * test runners set variables that affect children.
 */
export function startFixture(name: string, args: string[], options: FixtureOptions = {}): ChildProcess {
  const path = fileURLToPath(new URL(`fixtures/${name}`, import.meta.url))
  const limit = options.descriptors === undefined ? '' : `ulimit -n ${options.descriptors}; `
  const environment = options.ring === false ? ['-i', 'BATON_IO_URING=off'] : ['-i']
  const command = [...environment, '/bin/sh', '-c', `${limit}exec "$0" "$@"`, process.execPath, path, ...args]
  return spawn('/usr/bin/env', command, {
    cwd: '/',
    stdio: options.stdio ?? ['ignore', 'pipe', 'pipe'],
    ...(options.uid === undefined ? {} : { uid: options.uid }),
  })
}

export interface Ended {
  code: number | null
  signal: string | null
  stdout: string
  stderr: string
}

/** Waits for the child's exit; after `limit` ms it kills the child, which shows in `signal`. */
export function ended(child: ChildProcess, limit = SOON): Promise<Ended> {
  return new Promise((resolve, reject) => {
    let stdout = ''
    let stderr = ''
    child.stdout?.on('data', (chunk: Buffer) => (stdout += chunk.toString()))
    child.stderr?.on('data', (chunk: Buffer) => (stderr += chunk.toString()))
    const timer = setTimeout(() => child.kill('SIGKILL'), limit)
    child.once('error', reject)
    child.once('close', (code, signal) => {
      clearTimeout(timer)
      resolve({ code, signal, stdout, stderr })
    })
  })
}
