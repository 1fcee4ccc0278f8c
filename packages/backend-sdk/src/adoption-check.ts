import { Socket } from 'node:net'
import { socketpair } from '@baton/native-sendmsg'
import { BackendError } from './errors.ts'

let checked = false

/**
 * Adopts a descriptor of its own as it would a client's. To be called before registration: once a backend has acknowledged a connection, no
 * other process can serve it, and a socket that reads nothing reports no error.
 *
 * @throws {BackendError} BATON_ERR_UNSUPPORTED_RUNTIME
 * @throws {UnsupportedPlatformError} from `@baton/native-sendmsg`
 */
export function checkAdoption(): void {
  if (checked) return
  const [ours, theirs] = socketpair('stream')
  try {
    let socket: Socket
    try {
      socket = new Socket({ fd: ours.fd })
    } catch (cause) {
      ours.close()
      throw unsupported(remedyOf(cause as Error), cause)
    }
    // Bun takes the descriptor, and does nothing with it.
    if (socket.pending) {
      ours.close()
      throw unsupported('new net.Socket({ fd }) does not adopt a descriptor')
    }
    ours.release()
    socket.destroy()
    checked = true
  } finally {
    theirs.close()
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
