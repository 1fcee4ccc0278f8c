import { readdirSync } from 'node:fs'
import { readFile } from 'node:fs/promises'
import { factsOf, openFileOf } from '../supervise/proc.ts'

/** Where clients connect: TCP ports and paths of Unix sockets. */
export interface ListeningEnds {
  readonly ports: ReadonlySet<number>
  readonly paths: ReadonlySet<string>
}

/** States in /proc/net/tcp of connections that have not ended: ESTABLISHED, FIN_WAIT1, FIN_WAIT2, CLOSE_WAIT. */
const LIVE = new Set(['01', '04', '05', '08'])
const CONNECTED = '03'

/**
 * How many client connections the processes of each session have open. A managed process leads its own session, so its
 * descendants count with it. Read from proc(5), so backends that hang are counted as well.
 */
export async function openConnections(
  leaders: readonly number[],
  listeningEnds: ListeningEnds,
): Promise<ReadonlyMap<number, number>> {
  const owners = socketsOf(new Set(leaders))
  const inodes = (await Promise.all(tables(listeningEnds))).flat()
  const counts = new Map(leaders.map((leader) => [leader, 0]))
  for (const inode of inodes) {
    const leader = owners.get(inode)
    if (leader !== undefined) counts.set(leader, (counts.get(leader) ?? 0) + 1)
  }
  return counts
}

/** Inodes of open sockets, each with the leader of the session that has it open. */
function socketsOf(leaders: ReadonlySet<number>): Map<string, number> {
  const owners = new Map<string, number>()
  for (const name of readdirSync('/proc')) {
    const pid = Number(name)
    if (!Number.isInteger(pid)) continue
    const session = factsOf(pid)?.session
    if (session === undefined || !leaders.has(session)) continue
    for (const fd of descriptorsOf(pid)) {
      const inode = /^socket:\[(\d+)\]$/.exec(openFileOf(pid, fd) ?? '')?.[1]
      if (inode !== undefined) owners.set(inode, session)
    }
  }
  return owners
}

/** Empty for a process that has exited, or that this user may not inspect. */
function descriptorsOf(pid: number): number[] {
  try {
    return readdirSync(`/proc/${pid}/fd`).map(Number)
  } catch {
    return []
  }
}

function* tables({ ports, paths }: ListeningEnds): Generator<Promise<string[]>> {
  if (ports.size > 0) for (const file of ['tcp', 'tcp6']) yield inodesOfTcp(file, ports)
  if (paths.size > 0) yield inodesOfUnix(paths)
}

async function inodesOfTcp(file: string, ports: ReadonlySet<number>): Promise<string[]> {
  return (await lines(file)).flatMap((line) => {
    const [, local = '', , state = '', , , , , , inode = ''] = line.trim().split(/\s+/)
    const port = Number.parseInt(local.split(':')[1] ?? '', 16)
    return LIVE.has(state) && ports.has(port) ? [inode] : []
  })
}

async function inodesOfUnix(paths: ReadonlySet<string>): Promise<string[]> {
  return (await lines('unix')).flatMap((line) => {
    const [, , , , , state = '', inode = '', ...path] = line.trim().split(/\s+/)
    return state === CONNECTED && paths.has(path.join(' ')) ? [inode] : []
  })
}

async function lines(file: string): Promise<string[]> {
  try {
    return (await readFile(`/proc/net/${file}`, 'latin1')).split('\n').slice(1)
  } catch {
    // Without IPv6 there is no tcp6.
    return []
  }
}
