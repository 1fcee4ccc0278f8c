import { lstatSync, readdirSync, readFileSync, readlinkSync, type Stats } from 'node:fs'
import { connect } from 'node:net'
import { basename, dirname, join } from 'node:path'
import type { MasterStatus } from '../api/master-status.ts'

/** A broker that does not answer within this time is stopped or stuck, in ms. */
const TIMEOUT_MS = 1000

// Loaded when it is needed, so it imports nothing that other commands need too.

/** Maximum length of a path to connect to (unix(7)). */
const MAX_PATH_BYTES = 107

const MASTER_SOCKET = 'master.sock'

/** A broker of this user on this host. */
export interface FoundBroker {
  readonly runtimeDir: string
  /** Its `broker` is absent from a broker of an older version. Undefined if it has not answered. */
  readonly status: MasterStatus | undefined
}

/**
 * Asks the kernel which Unix sockets are listened on (proc(5), `/proc/net/unix`) instead of keeping records: it knows every broker, whichever
 * configuration, folder and environment it was started with, and none that has ended. The socket outlives the master of a worker that goes on.
 * Sockets of other users are left alone. Brokers in other network namespaces are not seen.
 *
 * @throws the error of reading `/proc/net/unix`
 */
export async function findBrokers(): Promise<FoundBroker[]> {
  const folders = new Set<string>()
  for (const path of listeningPaths(readFileSync('/proc/net/unix', 'utf8')))
    if (basename(path) === MASTER_SOCKET) folders.add(dirname(path))
  const found = await Promise.all(
    [...folders].toSorted().map(async (runtimeDir) => {
      const path = ownSocket(runtimeDir)
      if (path === undefined) return []
      const answer = await ask(path)
      return answer === 'ended' ? [] : [{ runtimeDir, status: answer }]
    }),
  )
  return found.flat()
}

/** `Num RefCount Protocol Flags Type St Inode Path`. The flag is __SO_ACCEPTCON. */
const LISTENING = /^\S+ \S+ \S+ 00010000 \S+ \S+ +\d+ (\/.*)$/gm

export function listeningPaths(table: string): string[] {
  return [...table.matchAll(LISTENING)].map(([, path = '']) => path)
}

/** The path of the socket, if it and the folder belong to this user; seen from a service with folders of its own (PrivateTmp=), if need be. */
function ownSocket(runtimeDir: string): string | undefined {
  for (const root of roots()) {
    const folder = join(root, runtimeDir)
    const path = join(folder, MASTER_SOCKET)
    // Another program may call its socket so, too.
    const isOurs = isOwn(folder, (stats) => stats.isDirectory()) && isOwn(path, (stats) => stats.isSocket())
    if (isOurs && isOwn(join(folder, 'control.sock'), (stats) => stats.isSocket()))
      return Buffer.byteLength(path) <= MAX_PATH_BYTES ? path : undefined
  }
  return undefined
}

function isOwn(path: string, is: (stats: Stats) => boolean): boolean {
  try {
    const stats = lstatSync(path, { throwIfNoEntry: false })
    return stats !== undefined && is(stats) && stats.uid === process.getuid?.()
  } catch {
    // EACCES: within a folder of another user.
    return false
  }
}

let known: string[] | undefined

/** The root of this process, and one for each other mount namespace of this user's processes. */
function* roots(): Generator<string> {
  yield '/'
  known ??= otherRoots()
  yield* known
}

function otherRoots(): string[] {
  const byNamespace = new Map<string | undefined, string>([[namespaceOf('self'), '/']])
  for (const pid of readdirSync('/proc')) {
    if (!/^\d+$/.test(pid)) continue
    const namespace = namespaceOf(pid)
    if (namespace !== undefined && !byNamespace.has(namespace))
      byNamespace.set(namespace, `/proc/${pid}/root`)
  }
  return [...byNamespace.values()].slice(1)
}

/** Undefined for a process of another user, or one that has ended. */
function namespaceOf(pid: string): string | undefined {
  try {
    return readlinkSync(`/proc/${pid}/ns/mnt`)
  } catch {
    return undefined
  }
}

/** @returns undefined if it does not answer in time; `ended` if nothing listens any more, or what answers is no broker */
function ask(path: string): Promise<MasterStatus | undefined | 'ended'> {
  return new Promise((resolve) => {
    const socket = connect(path)
    let text = ''
    const settle = (answer: MasterStatus | undefined | 'ended') => {
      clearTimeout(timer)
      socket.destroy()
      resolve(answer)
    }
    const timer = setTimeout(() => settle(undefined), TIMEOUT_MS)
    socket.setEncoding('utf8')
    socket.on('data', (chunk: string) => (text += chunk))
    socket.on('end', () => settle(statusIn(text) ?? 'ended'))
    // EAGAIN: its accept queue is full.
    socket.on('error', (error) => settle('code' in error && error.code === 'EAGAIN' ? undefined : 'ended'))
    socket.write('status\n')
  })
}

function statusIn(text: string): MasterStatus | undefined {
  try {
    const status = JSON.parse(text) as Partial<MasterStatus> | null
    return Array.isArray(status?.workers) ? (status as MasterStatus) : undefined
  } catch {
    return undefined
  }
}
