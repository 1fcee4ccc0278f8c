import { readdirSync, readFileSync, readlinkSync } from 'node:fs'
import { setTimeout as pause } from 'node:timers/promises'

const STEP = 20
const STEADY = 10

/**
 * Open descriptors of a process of this user (proc(5)), once they have not changed for a fifth of a second in which it was
 * idle: on a busy machine it may be waiting for the CPU in the middle of something.
 */
export async function steadyDescriptors(pid) {
  let count = descriptors(pid)
  for (let same = 0; same < STEADY;) {
    await pause(STEP)
    const again = descriptors(pid)
    same = again === count && isIdle(pid) ? same + 1 : 0
    count = again
  }
  return count
}

/** No thread of it is running or runnable. */
function isIdle(pid) {
  try {
    return readdirSync(`/proc/${pid}/task`).every((thread) => {
      const stat = readFileSync(`/proc/${pid}/task/${thread}/stat`, 'utf8')
      return stat[stat.lastIndexOf(')') + 2] === 'S'
    })
  } catch {
    // A thread has exited since the folder was listed.
    return false
  }
}

export function descriptors(pid) {
  return readdirSync(`/proc/${pid}/fd`).length
}

/** The descriptors' targets, newest last, to find a leak: `37 socket:[4711] 0100007F:9C40 0100007F:C350 08`. */
export function describeDescriptors(pid) {
  const sockets = new Map()
  for (const family of ['tcp', 'unix']) {
    for (const line of readFileSync(`/proc/net/${family}`, 'utf8').split('\n').slice(1)) {
      const words = line.trim().split(/\s+/)
      const [inode, tale] =
        family === 'tcp' ? [words[9], words.slice(1, 4)] : [words[6], ['unix', words[5], words[7] ?? '']]
      sockets.set(`socket:[${inode}]`, tale.join(' '))
    }
  }
  const fds = readdirSync(`/proc/${pid}/fd`).toSorted((a, b) => a - b)
  return fds.map((fd) => {
    const target = readlinkSync(`/proc/${pid}/fd/${fd}`)
    return `${fd} ${target} ${sockets.get(target) ?? ''}`.trimEnd()
  })
}
