import { readdirSync } from 'node:fs'
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
