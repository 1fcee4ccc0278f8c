import { renameSync } from 'node:fs'
import {
  acceptOne,
  connectUnix,
  listenUnix,
  NativeError,
  OwnedFd,
  receiveMessage,
  send,
  sendMessage,
  ShortSendError,
} from '@baton/native-sendmsg'
import type { Test } from 'tap'
import { eventually } from './eventually.ts'

const CHUNK = 64 * 1024
const MAX_FDS = 200

interface Piece {
  bytes: Buffer
  fds: OwnedFd[]
}

/**
 * Sits between a worker without a master and the next master, which claims it, so that something can happen when the worker has answered, and the
 * master does not have the answer yet.
 *
 * @param path of the operator's socket
 * @returns waits for the claim, calls `answered` once the worker has answered, and passes the answer on
 */
export function interceptClaim(t: Test, path: string): (answered: () => void) => Promise<void> {
  const real = `${path}.real`
  renameSync(path, real)
  const socket = listenUnix({ path })
  t.teardown(() => socket.close())
  return async (answered) => {
    const master = await accepted(socket)
    const worker = connectUnix(real)
    t.teardown(() => {
      for (const each of [master, worker]) each.close()
    })
    send(worker.fd, (await read(master, 'the next master asks')).bytes)
    const answer: Piece[] = []
    for (;;) {
      const piece = await read(worker, 'the worker answers')
      if (piece.bytes.length === 0) break
      answer.push(piece)
    }
    answered()
    // In place again before the next master looks for it.
    renameSync(real, path)
    for (const piece of answer) await passOn(master, piece)
    master.close()
  }
}

async function accepted(socket: OwnedFd): Promise<OwnedFd> {
  const { fd } = await whenReady(() => acceptOne(socket.fd), 'the next master connects')
  return new OwnedFd(fd)
}

function read({ fd }: OwnedFd, what: string): Promise<Piece> {
  return whenReady(() => receiveMessage(fd, { size: CHUNK, maxFds: MAX_FDS }), what)
}

async function passOn({ fd }: OwnedFd, { bytes, fds }: Piece): Promise<void> {
  for (let rest = bytes; rest.length > 0;) {
    const sent = await whenReady(() => {
      try {
        return sendMessage(fd, { bytes: rest, fds: fds.map((each) => each.fd) })
      } catch (error) {
        if (error instanceof ShortSendError) return error.sent
        if (error instanceof NativeError && error.code === 'EAGAIN') return undefined
        throw error
      }
    }, 'the next master reads')
    rest = rest.subarray(sent)
    // They went with the first byte.
    for (const each of fds.splice(0)) each.close()
  }
}

/** Of nonblocking sockets. */
async function whenReady<T>(attempt: () => T | undefined, what: string): Promise<T> {
  let result: T | undefined
  await eventually(() => (result = attempt()) !== undefined, what)
  return result as T
}
