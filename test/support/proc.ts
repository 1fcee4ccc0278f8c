import { readdirSync, readFileSync, readlinkSync } from 'node:fs'

/** What the kernel says of a process of this user: proc(5). Sizes are bytes. */

export function openDescriptors(pid: number): number {
  return readdirSync(`/proc/${pid}/fd`).length
}

export function residentBytes(pid: number): number {
  return statusBytes(pid, 'VmRSS')
}

/** The most that was ever resident. */
export function peakResidentBytes(pid: number): number {
  return statusBytes(pid, 'VmHWM')
}

/** Everything that read(2) and its kin gave the process, sockets among it: libuv reads streams with read(2). */
export function bytesRead(pid: number): number {
  const found = /^rchar: (\d+)$/m.exec(readFileSync(`/proc/${pid}/io`, 'utf8'))
  if (found === null) throw new Error(`no rchar in /proc/${pid}/io`)
  return Number(found[1])
}

/** Whether the process has a descriptor of the server's end of this IPv4 connection. */
export function holdsServerEnd(pid: number, localPort: number, clientPort: number): boolean {
  const target = `socket:[${socketInode(localPort, clientPort)}]`
  return readdirSync(`/proc/${pid}/fd`).some((fd) => {
    try {
      return readlinkSync(`/proc/${pid}/fd/${fd}`) === target
    } catch (error) {
      // Closed between the listing and the look.
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') return false
      throw error
    }
  })
}

/** `/proc/net/tcp` has one line for each IPv4 socket: `sl local remote st tx:rx tr:when retrnsmt uid timeout inode`. */
function socketInode(localPort: number, remotePort: number): string {
  for (const line of readFileSync('/proc/net/tcp', 'utf8').split('\n').slice(1)) {
    const [, local, remote, , , , , , , inode] = line.trim().split(/\s+/)
    if (portOf(local) === localPort && portOf(remote) === remotePort && inode !== undefined) return inode
  }
  throw new Error(`no connection from port ${remotePort} to port ${localPort}`)
}

function portOf(address = ''): number {
  return Number.parseInt(address.split(':')[1] ?? '', 16)
}

function statusBytes(pid: number, field: 'VmRSS' | 'VmHWM'): number {
  const found = new RegExp(`^${field}:\\s+(\\d+) kB$`, 'm').exec(readFileSync(`/proc/${pid}/status`, 'utf8'))
  if (found === null) throw new Error(`no ${field} in /proc/${pid}/status`)
  return Number(found[1]) * 1024
}
