import { readdirSync, readFileSync, readlinkSync } from 'node:fs'

// The kernel's data on processes of this user: proc(5). Sizes are in bytes.

/** Open descriptors, minus the IPv4 connections of the listening port `except` (those of an observer, for example). */
export function openDescriptors(pid: number, except?: number): number {
  const targets = descriptorTargets(pid)
  if (except === undefined) return targets.length
  const excepted = new Set(
    ipv4Sockets().flatMap(({ local, remote, target }) => (local === except && remote !== 0 ? target : [])),
  )
  return targets.filter((target) => !excepted.has(target)).length
}

/** Open sockets of all kinds, including standard input and output if Node made them as pipes. */
export function openSockets(pid: number): number {
  return descriptorTargets(pid).filter((target) => target.startsWith('socket:')).length
}

export function residentBytes(pid: number): number {
  return statusBytes(pid, 'VmRSS')
}

/** Peak resident size. */
export function peakResidentBytes(pid: number): number {
  return statusBytes(pid, 'VmHWM')
}

/** All bytes that the process got from read(2) and similar calls, sockets included: libuv reads streams with read(2). */
export function bytesRead(pid: number): number {
  return countedBytes(pid, 'rchar')
}

/** All bytes that write(2) and similar calls took from the process, sockets included. */
export function bytesWritten(pid: number): number {
  return countedBytes(pid, 'wchar')
}

/** Whether the process holds the server's end of this IPv4 connection. */
export function holdsServerEnd(pid: number, localPort: number, clientPort: number): boolean {
  const found = ipv4Sockets().find(({ local, remote }) => local === localPort && remote === clientPort)
  if (found === undefined) throw new Error(`no connection from port ${clientPort} to port ${localPort}`)
  return descriptorTargets(pid).includes(found.target)
}

/** The number of IPv4 connections of a listening port whose server's end the process holds. */
export function serverEndsIn(pid: number, localPort: number): number {
  const held = new Set(descriptorTargets(pid))
  return ipv4Sockets().filter(
    ({ local, remote, target }) => local === localPort && remote !== 0 && held.has(target),
  ).length
}

/** Bytes of a client that the server's end of an IPv4 connection has received, and no process has read. */
export function unreadBytes(localPort: number, clientPort: number): number {
  const lines = readFileSync('/proc/net/tcp', 'utf8').trimEnd().split('\n').slice(1)
  for (const line of lines) {
    const [, local, remote, , queues = ''] = line.trim().split(/\s+/)
    if (portOf(local) === localPort && portOf(remote) === clientPort) return portOf(queues)
  }
  throw new Error(`no connection from port ${clientPort} to port ${localPort}`)
}

/** The number of IPv4 connections of a listening port on this host. */
export function connectionsTo(port: number): number {
  return ipv4Sockets().filter(({ local, remote }) => local === port && remote !== 0).length
}

/** The target of each descriptor, such as `socket:[INODE]`. */
function descriptorTargets(pid: number): string[] {
  return readdirSync(`/proc/${pid}/fd`).flatMap((fd) => {
    try {
      return readlinkSync(`/proc/${pid}/fd/${fd}`)
    } catch (error) {
      // Closed after the folder was listed.
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') return []
      throw error
    }
  })
}

/** `/proc/net/tcp`, one line for each socket: `sl local remote st tx:rx tr:when retrnsmt uid timeout inode ...`. */
function ipv4Sockets(): { local: number; remote: number; target: string }[] {
  const lines = readFileSync('/proc/net/tcp', 'utf8').trimEnd().split('\n').slice(1)
  return lines.map((line) => {
    const [, local, remote, , , , , , , inode] = line.trim().split(/\s+/)
    return { local: portOf(local), remote: portOf(remote), target: `socket:[${inode}]` }
  })
}

function portOf(address = ''): number {
  return Number.parseInt(address.split(':')[1] ?? '', 16)
}

function countedBytes(pid: number, field: 'rchar' | 'wchar'): number {
  const found = new RegExp(`^${field}: (\\d+)$`, 'm').exec(readFileSync(`/proc/${pid}/io`, 'utf8'))
  if (found === null) throw new Error(`no ${field} in /proc/${pid}/io`)
  return Number(found[1])
}

function statusBytes(pid: number, field: 'VmRSS' | 'VmHWM'): number {
  const found = new RegExp(`^${field}:\\s+(\\d+) kB$`, 'm').exec(readFileSync(`/proc/${pid}/status`, 'utf8'))
  if (found === null) throw new Error(`no ${field} in /proc/${pid}/status`)
  return Number(found[1]) * 1024
}

/** The processes of a session: those that a managed process (its leader) has started, even if their parents have exited. */
export function inSession(leader: number): number[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .map(Number)
    .filter((pid) => sessionOf(pid) === leader)
}

/** Undefined for a process that has ended. */
function sessionOf(pid: number): number | undefined {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'latin1')
    const [state, , , session] = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
    return state === 'Z' ? undefined : Number(session)
  } catch {
    return undefined
  }
}

/** The processes that have this file open with this access mode; `target` is, for example, `pipe:[INODE]`. */
export function holders(target: string, mode: number): number[] {
  const numbers = readdirSync('/proc').filter((name) => /^\d+$/.test(name))
  return numbers.map(Number).filter((pid) => {
    try {
      return readdirSync(`/proc/${pid}/fd`).some((fd) => {
        if (readlinkSync(`/proc/${pid}/fd/${fd}`) !== target) return false
        const flags = /^flags:\s+(\d+)$/m.exec(readFileSync(`/proc/${pid}/fdinfo/${fd}`, 'utf8'))?.[1] ?? ''
        return (Number.parseInt(flags, 8) & O_ACCMODE) === mode
      })
    } catch {
      // It has exited, or closed one meanwhile.
      return false
    }
  })
}

/** open(2). */
const O_ACCMODE = 3
