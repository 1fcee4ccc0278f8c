import type { BorrowedFd, OwnedFd } from './descriptors.ts'
import { BatonNativeError, UnexpectedEndError } from './errors.ts'
import { receiveMessage } from './message.ts'
import type { Poller } from './poller.ts'
import { EPOLLIN } from './watch.ts'

export interface ReceiveExactOptions {
  /** Maximum number of descriptors, in total; further ones are closed. */
  maxFds: number
  signal?: AbortSignal | undefined
}

/**
 * Receives exactly `size` bytes from a stream, with the descriptors attached to them; waits through the
 * poller. The caller owns the descriptors. Until it settles, no other code may watch or read `fd`.
 *
 * Rejects, after closing every descriptor received, with UnexpectedEndError at EOF,
 * BATON_ERR_CONTROL_TRUNCATED, BATON_ERR_CONTROL_INVALID, BATON_ERR_MESSAGE_TRUNCATED (a seqpacket message
 * longer than `size`), NativeError, or the signal's reason.
 */
export function receiveExact(
  poller: Poller,
  fd: BorrowedFd,
  size: number,
  options: ReceiveExactOptions,
): Promise<{ bytes: Buffer; fds: OwnedFd[] }> {
  const { maxFds, signal } = options
  const parts: Buffer[] = []
  const fds: OwnedFd[] = []
  let received = 0

  /** Reads what is available; returns true once complete. */
  const advance = (): boolean => {
    while (received < size) {
      const part = receiveMessage(fd, { size: size - received, maxFds: maxFds - fds.length })
      if (part === undefined) return false
      fds.push(...part.fds)
      if (part.controlTruncated) throw new BatonNativeError('BATON_ERR_CONTROL_TRUNCATED', `fd ${fd}`)
      if (part.truncated) throw new BatonNativeError('BATON_ERR_MESSAGE_TRUNCATED', `fd ${fd}`)
      if (part.bytes.length === 0) throw new UnexpectedEndError(fd, received, size)
      parts.push(part.bytes)
      received += part.bytes.length
    }
    return true
  }

  return new Promise((resolve, reject) => {
    const fail = (error: unknown): void => {
      for (const held of fds) held.close()
      reject(error)
    }
    const settle = (): boolean => {
      if (!advance()) return false
      resolve({ bytes: Buffer.concat(parts, size), fds })
      return true
    }
    try {
      signal?.throwIfAborted()
      if (settle()) return
      const stop = (): void => {
        watch.remove()
        signal?.removeEventListener('abort', abort)
      }
      const abort = (): void => {
        fail(signal?.reason)
        stop()
      }
      const watch = poller.add(fd, EPOLLIN, () => {
        try {
          if (settle()) stop()
        } catch (error) {
          stop()
          fail(error)
        }
      })
      signal?.addEventListener('abort', abort, { once: true })
    } catch (error) {
      fail(error)
    }
  })
}
