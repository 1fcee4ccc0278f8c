import type { Socket } from 'node:net'

/**
 * The descriptor of a socket that libuv has; undefined where it does not show. Node has no public way to it, and without it
 * nobody can ask the kernel who is at the other end of a Unix socket. Checked on Node 20.20. Not for the hot path,
 * and nothing may depend on the answer but what is written down.
 */
export function descriptorOf(socket: Socket): number | undefined {
  const { _handle: handle } = socket as { _handle?: { fd?: unknown } | null }
  const fd = handle?.fd
  return typeof fd === 'number' && fd >= 0 ? fd : undefined
}
