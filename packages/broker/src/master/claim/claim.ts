import { connectUnix, NativeError, type OwnedFd, peerCredentials, Poller, send } from '@baton/native-sendmsg'
import { BrokerError } from '../../errors.ts'
import { Channel } from '../../ipc/channel.ts'
import type { History } from '../../api/history.ts'
import { CLAIM, CLAIM_VERSION, type Claimed } from '../../ipc/claim.ts'
import type { WorkerState } from '../workers/worker-process.ts'
import { factsOf } from '../../supervise/proc.ts'
import { type Estate, withDescriptors } from '../workers/estate.ts'

/** Timeout for the worker to answer, in ms. */
const TIMEOUT_MS = 5000

/** The worker of a dead master, and what it kept for this one. Owns the descriptors, by their numbers. */
export interface Inheritance {
  readonly estate: Estate
  readonly worker: WorkerState
  readonly history: History | undefined
}

/**
 * Takes over the worker of a master that was killed, if there is one. The caller holds the lock of `runtimeDir`.
 *
 * @param path of the operator's socket
 * @throws {BrokerError} BATON_ERR_ALREADY_RUNNING, BATON_ERR_WORKER_UNCLAIMED
 */
export async function claimWorker(path: string): Promise<Inheritance | undefined> {
  let socket: OwnedFd
  try {
    socket = connectUnix(path)
    send(socket.fd, Buffer.from(`${CLAIM}\n`))
  } catch (error) {
    if (!(error instanceof NativeError)) throw error
    // ENOENT, ECONNREFUSED: no process listens. EAGAIN: one does, and does not accept.
    if (error.code === 'EAGAIN') throw new BrokerError('BATON_ERR_ALREADY_RUNNING', path, { cause: error })
    return undefined
  }
  // Of the process that has called listen(2), even if others have the socket now (unix(7), SO_PEERCRED).
  const { pid } = peerCredentials(socket.fd)
  const poller = new Poller()
  try {
    const answer = await receive(socket, poller)
    if (answer === 'nothing') return undefined
    if (answer === 'master') throw new BrokerError('BATON_ERR_ALREADY_RUNNING', path)
    if (answer === 'silent' && isAlive(pid))
      throw new BrokerError('BATON_ERR_ALREADY_RUNNING', `${path} (pid ${pid})`)
    if (answer === 'silent')
      throw new BrokerError('BATON_ERR_WORKER_UNCLAIMED', `it has not answered within ${TIMEOUT_MS} ms`)
    return inherit(...answer)
  } finally {
    poller.close()
  }
}

type Answer = readonly [claimed: Claimed, fds: readonly OwnedFd[]] | 'master' | 'silent' | 'nothing'

function receive(socket: OwnedFd, poller: Poller): Promise<Answer> {
  return new Promise((resolve) => {
    const settle = (answer: Answer) => {
      clearTimeout(timer)
      channel.close()
      resolve(answer)
    }
    const timer = setTimeout(() => settle('silent'), TIMEOUT_MS)
    const channel: Channel<Claimed, never> = new Channel<Claimed, never>(socket, poller, {
      message: (claimed, fds) => settle([claimed, fds]),
      // A master answers with text, which is no frame.
      ended: (error) => settle(error === undefined ? 'nothing' : 'master'),
    })
  })
}

/** A master that does not answer is stopped, or hangs. */
function isAlive(pid: number): boolean {
  const state = factsOf(pid)?.state
  return state !== undefined && state !== 'Z' && state !== 'X'
}

function inherit(claimed: Claimed, fds: readonly OwnedFd[]): Inheritance {
  const { version, pid, started, snapshot, backends, controls, shifts, history, accounts } = claimed
  if (version !== CLAIM_VERSION) {
    // Closing its channel leaves it unclaimed.
    for (const fd of fds) fd.close()
    throw new BrokerError(
      'BATON_ERR_WORKER_UNCLAIMED',
      `pid ${pid} is of another version (${version}, this one reads ${CLAIM_VERSION}); "baton stop" ends it`,
    )
  }
  const estate = claimed.estate as Estate
  const [channel, ...sockets] = fds
  return {
    estate: {
      ...withDescriptors(estate, sockets),
      ...(controls && { controls }),
      ...(shifts && { shifts }),
    },
    worker: {
      number: estate.started,
      pid,
      role: 'current',
      channel: (channel as OwnedFd).release(),
      stderr: null,
      snapshot,
      backends,
      answers: true,
      // At once: until its first answer to a ping, it would be taken for one of an older version.
      succeeds: claimed.succeeds === true,
      pairs: claimed.pairs === true,
      pauses: claimed.pauses === true,
      accounts,
      foreign: started,
    },
    history,
  }
}
