import type { Socket } from 'node:net'
import { monotonicTime, socketpair } from '@baton/native-sendmsg'
import { alignClock } from './clock.ts'
import { BackendError } from './errors.ts'
import { openBy, socketBy, type Way } from './open-socket.ts'

const WAYS: readonly Way[] = ['constructor', 'connect']

let checked = false

/**
 * Adopts a descriptor of its own as it would a client's, finds the way in which this runtime does that, and sets the clock of token deadlines. To be called before registration:
 * once a backend has acknowledged a connection, no other process can serve it, and a socket that reads nothing reports no error.
 *
 * @throws {BackendError} BATON_ERR_UNSUPPORTED_RUNTIME
 * @throws {UnsupportedPlatformError} from `@baton/native-sendmsg`
 */
export function checkAdoption(): void {
  if (checked) return
  const way = WAYS.find(adopts)
  if (way === undefined) throw unsupported('net.Socket does not adopt a descriptor')
  openBy(way)
  alignClock(monotonicTime())
  checked = true
}

/** @throws {BackendError} if the runtime says that it refuses */
function adopts(way: Way): boolean {
  const [ours, theirs] = socketpair('stream')
  try {
    const socket = opened(way, ours.fd)
    // Bun's constructor takes the descriptor and does nothing with it, without an error. It is still ours.
    if (socket.pending) return false
    ours.release()
    socket.destroy()
    return true
  } finally {
    ours.close()
    theirs.close()
  }
}

function opened(way: Way, fd: number): Socket {
  try {
    return socketBy(way, { fd })
  } catch (cause) {
    throw unsupported(remedyOf(cause as Error), cause)
  }
}

function unsupported(reason: string, cause?: unknown): BackendError {
  const { bun, deno, node } = process.versions
  const runtime = bun !== undefined ? `Bun ${bun}` : deno !== undefined ? `Deno ${deno}` : `Node ${node}`
  return new BackendError('BATON_ERR_UNSUPPORTED_RUNTIME', `${runtime}: ${reason}`, { cause })
}

function remedyOf(error: NodeJS.ErrnoException): string {
  if (error.code !== 'ERR_ACCESS_DENIED') return error.message
  return 'its permission model refuses network sockets: start it with --allow-net beside --permission'
}
