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

/** What a broker gave us: both descriptors are ours to close. */
export interface Registration {
  readonly control: OwnedFd
  readonly lane: OwnedFd
  /** Where the broker dials what it cannot hand over. */
  readonly relays: Relays
  /** Why there is no endpoint for relays; undefined when there is one. */
  readonly relayProblem: Error | undefined
  readonly welcome: WelcomeFrame
  /** Has seen WELCOME; goes on with the control connection. */
  readonly order: FrameOrder
}

/** Lets go of what nobody has taken over. */
export function closeRegistration({ control, lane, relays }: Registration): void {
  lane.close()
  control.close()
  relays.close()
}

/** A broker whose event loop is stuck accepts (the kernel does) and says nothing. */
const ANSWER_TIMEOUT_MS = 5000

const LENGTH_BYTES = 4

/** How long a relay may take to show its header, in milliseconds; it is sent at once. */
const RELAY_TIMEOUT_MS = 5000

/**
 * Dials the control socket, says HELLO and takes the answer.
 *
 * WELCOME carries the backend's end of the lane. It is taken with exact recvmsg calls before libuv may read the
 * connection: a plain read would destroy the descriptor, and a byte too many would be lost to libuv.
 *
 * @throws {NativeError} ENOENT, ECONNREFUSED, EACCES, EAGAIN, ... with the path
 * @throws {RegistrationRefused} when the broker says no
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
  const patience = new AbortController()
  const timeout = setTimeout(() => patience.abort(new Error('no answer')), ANSWER_TIMEOUT_MS)
  const stop = () => patience.abort(signal.reason)
  signal.addEventListener('abort', stop)
  try {
    const shared = peerCredentials(control.fd).uid !== process.getuid?.()
    const opened = await openRelays(path, shared, RELAY_TIMEOUT_MS)
    relays = opened.relays
    const reconnect = relays.path === null ? null : { path: relays.path }
    send(control.fd, encodeFrame({ ...greeting, reconnect }))
    const take = async (size: number): Promise<Buffer> => {
      const { bytes, fds } = await receiveExact(sharedPoller(), control.fd, size, {
        // One more than is right, so that a second one is seen.
        maxFds: 2,
        signal: patience.signal,
      })
      received.push(...fds)
      return bytes
    }
    const decoder = new FrameDecoder({ limit: PRE_WELCOME_LIMIT })
    let answer: Frame | undefined
    // A type from 0x80 up that is unknown here decodes to nothing; the answer stands behind it.
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
    if (patience.signal.aborted && !signal.aborted) {
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
