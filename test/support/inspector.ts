import { readdirSync, readFileSync, readlinkSync } from 'node:fs'

/** The default port of Node's inspector. */
const PORT = 9229

/** Whether this process has the inspector's port open. */
export function isInspected(pid: number): boolean {
  const listening = readFileSync('/proc/net/tcp', 'utf8')
    .split('\n')
    .map((line) => line.trim().split(/\s+/))
    .filter(
      ([, local, , state]) => state === '0A' && Number.parseInt(local?.split(':')[1] ?? '', 16) === PORT,
    )
    .map((fields) => `socket:[${fields[9]}]`)
  return readdirSync(`/proc/${pid}/fd`).some((fd) => {
    try {
      return listening.includes(readlinkSync(`/proc/${pid}/fd/${fd}`))
    } catch {
      return false
    }
  })
}
