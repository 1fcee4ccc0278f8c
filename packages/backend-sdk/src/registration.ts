import {
  connectUnix,
  type OwnedFd,
  peerCredentials,
  receiveExact,
  send,
  sharedPoller,
} from '@baton/native-sendmsg'
import { BackendError, RegistrationRefused } from './errors.ts'
import {
  encodeFrame,
  type Frame,
  FrameDecoder,
  FrameOrder,
  type HelloFrame,
  PRE_WELCOME_LIMIT,
  ProtocolError,
  type WelcomeFrame,
} from './protocol/index.ts'
import { noRelays, openRelays, type Relays } from './relay/relays.ts'

/** A registration accepted by the broker. The holder owns both descriptors and the relay endpoint. */
export interface Registration {
  readonly control: OwnedFd
  readonly lane: OwnedFd
  /** The endpoint that the broker dials for connections it cannot hand off. */
  readonly relays: Relays
  /** Why there is no relay endpoint; undefined if there is one. */
  readonly relayProblem: Error | undefined
  readonly welcome: WelcomeFrame
  /** Has already checked WELCOME; to be used for the rest of the control connection. */
  readonly order: FrameOrder
}

/** Closes a registration that no session has taken over. */
export function closeRegistration({ control, lane, relays }: Registration): void {
  lane.close()
  control.close()
  relays.close()
}

/** If the broker's event loop is stuck, the kernel accepts the connection, but no answer comes. */
const ANSWER_TIMEOUT_MS = 5000

const LENGTH_BYTES = 4

/** Time limit for a relay's header, which the broker sends immediately. */
const RELAY_TIMEOUT_MS = 5000

/**
 * Dials the control socket, sends HELLO and receives the answer.
 *
 * WELCOME carries the backend's end of the lane. It is received with recvmsg calls of exact size before libuv may read the
 * connection: a plain read would destroy the descriptor, and libuv would never see a byte that was read beyond WELCOME.
 *
 * @throws {NativeError} ENOENT, ECONNREFUSED, EACCES, EAGAIN, ... with the path
 * @throws {RegistrationRefused} the broker refused
 * @throws {BackendError} BATON_ERR_REGISTRATION_TIMEOUT, BATON_ERR_LANE_MISSING
 */
export async function register(
  path: string,
  greeting: Omit<HelloFrame, 'reconnect'>,
  signal: AbortSignal,
): Promise<Registration> {
  const control = connectUnix(path)
  const received: OwnedFd[] = []
  let relays: Relays = noRelays
  const limit = new AbortController()
  const timeout = setTimeout(() => limit.abort(new Error('no answer')), ANSWER_TIMEOUT_MS)
  const stop = () => limit.abort(signal.reason)
  signal.addEventListener('abort', stop)
  try {
    const shared = peerCredentials(control.fd).uid !== process.getuid?.()
    const opened = await openRelays(path, shared, RELAY_TIMEOUT_MS)
    relays = opened.relays
    const reconnect = relays.path === null ? null : { path: relays.path }
    send(control.fd, encodeFrame({ ...greeting, reconnect }))
    const take = async (size: number): Promise<Buffer> => {
      const { bytes, fds } = await receiveExact(sharedPoller(), control.fd, size, {
        // One more than expected, so that a second one is noticed.
        maxFds: 2,
        signal: limit.signal,
      })
      received.push(...fds)
      return bytes
    }
    const decoder = new FrameDecoder({ limit: PRE_WELCOME_LIMIT })
    let answer: Frame | undefined
    // An unknown type from 0x80 up decodes to nothing; the answer follows it.
    while (answer === undefined) {
      const prefix = await take(LENGTH_BYTES)
      decoder.push(prefix)
      ;[answer] = decoder.push(await take(prefix.readUInt32LE(0)))
    }

    const order = new FrameOrder('backend')
    order.check(answer)
    if (answer.type === 'refused') {
      const { code, message, retry, retryAfter } = answer
      throw new RegistrationRefused(code, message, retry, retryAfter ?? 0)
    }
    if (answer.type !== 'welcome') {
      throw new ProtocolError('BATON_ERR_FRAME_OUT_OF_ORDER', `got ${answer.type}, wanted welcome`)
    }
    const [lane] = received
    if (lane === undefined || received.length !== 1) {
      throw new BackendError('BATON_ERR_LANE_MISSING', `got ${received.length}, wanted 1`)
    }
    return { control, lane, relays, relayProblem: opened.problem, welcome: answer, order }
  } catch (error) {
    for (const fd of received) fd.close()
    control.close()
    relays.close()
    if (limit.signal.aborted && !signal.aborted) {
      throw new BackendError('BATON_ERR_REGISTRATION_TIMEOUT', `${ANSWER_TIMEOUT_MS} ms, ${path}`, {
        cause: error,
      })
    }
    throw error
  } finally {
    clearTimeout(timeout)
    signal.removeEventListener('abort', stop)
  }
}
