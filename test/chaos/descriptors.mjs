import { readdirSync, readFileSync, readlinkSync } from 'node:fs'
import { setTimeout as pause } from 'node:timers/promises'

const STEP = 20
const STEADY = 10

/** Open descriptors of a process of this user (proc(5)), once they have not changed for a fifth of a second. */
export async function steadyDescriptors(pid) {
  let count = descriptors(pid)
  for (let same = 0; same < STEADY;) {
    await pause(STEP)
    const again = descriptors(pid)
    same = again === count ? same + 1 : 0
    count = again
  }
  return count
}

export function descriptors(pid) {
  return readdirSync(`/proc/${pid}/fd`).length
}

/** What they are, newest last, for who looks for a leak: `37 socket:[4711] 0100007F:9C40 0100007F:C350 08`. */
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
