import { readFileSync, statSync } from 'node:fs'
import { factsOf } from '../../supervise/proc.ts'

/** The process that holds the flock of the file at `path`, in words; empty if the kernel does not show it (proc_locks(5)). */
export function describeHolder(path: string): string {
  const pid = holderOf(path)
  const facts = pid === undefined ? undefined : factsOf(pid)
  if (facts === undefined) return ''
  return facts.state === 'T' ? ` (pid ${facts.pid}, which is stopped by SIGSTOP)` : ` (pid ${facts.pid})`
}

function holderOf(path: string): number | undefined {
  try {
    const { ino } = statSync(path, { bigint: true })
    for (const line of readFileSync('/proc/locks', 'utf8').split('\n')) {
      const [, kind, , , pid, file = ''] = line.trim().split(/\s+/)
      if (kind === 'FLOCK' && file.endsWith(`:${ino}`) && Number(pid) > 0) return Number(pid)
    }
  } catch {
    // Without /proc.
  }
  return undefined
}
