import type { ManagedProcesses } from './managed-processes.ts'

/** The master's report on a process that it has just started arrives within this time, even on a busy machine, in milliseconds. */
const MANAGED_TIMEOUT_MS = 1000

/**
 * Calls `decide` once it is known whether Baton started the process, usually immediately. The master's report on a process and
 * the process's HELLO arrive on two sockets, and either may be read first.
 *
 * @param managed undefined if it does not matter
 * @returns cancels the wait; undefined if there is none
 */
export function whenKnown(
  managed: ManagedProcesses | undefined,
  { pid, claimed }: { readonly pid: number; readonly claimed: string | null },
  decide: () => void,
): (() => void) | undefined {
  const isKnown = () => managed === undefined || managed.ownerOf(pid, claimed) !== undefined
  if (isKnown()) {
    decide()
    return undefined
  }
  const stop = () => {
    clearTimeout(timer)
    forget?.()
  }
  const settle = () => {
    stop()
    decide()
  }
  const timer = setTimeout(settle, MANAGED_TIMEOUT_MS)
  const forget = managed?.onUpdate(() => {
    if (isKnown()) settle()
  })
  return stop
}
