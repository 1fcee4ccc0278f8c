import { ProtocolError } from './errors.ts'
import type { Frame } from './frames.ts'

type Type = Frame['type']
type State = 'greeting' | 'registered' | 'refused'

interface Rules {
  readonly greetings: ReadonlyMap<Type, State>
  readonly registered: readonly Type[]
}

const RULES: Record<'broker' | 'backend', Rules> = {
  broker: {
    greetings: new Map<Type, State>([['hello', 'registered']]),
    registered: ['drain', 'drained', 'heartbeat', 'stats', 'ack', 'nack', 'handback', 'resumes'],
  },
  backend: {
    greetings: new Map<Type, State>([
      ['welcome', 'registered'],
      ['refused', 'refused'],
    ]),
    registered: [
      'offer',
      'revoke',
      'drain',
      'heartbeat',
      'reconnect',
      'rebalance',
      'taken',
      'given_back',
      'settled',
      'ticket_keys',
    ],
  },
}

/**
 * Checks that each frame received on one control connection is allowed at its position; `role` is the receiver. It depends only on
 * the types of frames. One instance per connection.
 */
export class FrameOrder {
  readonly #role: 'broker' | 'backend'
  #state: State = 'greeting'

  constructor(role: 'broker' | 'backend') {
    this.#role = role
  }

  /** @throws {ProtocolError} `BATON_ERR_FRAME_OUT_OF_ORDER`; the frame then does not count as received */
  check(frame: Frame): void {
    const allowed = this.#allowed()
    if (!allowed.includes(frame.type)) {
      const wanted = allowed.length === 0 ? 'nothing' : allowed.join(', ').toUpperCase()
      throw new ProtocolError(
        'BATON_ERR_FRAME_OUT_OF_ORDER',
        `the ${this.#role} got ${frame.type.toUpperCase()} out of order, wanted ${wanted}`,
      )
    }
    this.#state = RULES[this.#role].greetings.get(frame.type) ?? this.#state
  }

  #allowed(): readonly Type[] {
    const { greetings, registered } = RULES[this.#role]
    if (this.#state === 'greeting') return [...greetings.keys()]
    return this.#state === 'registered' ? registered : []
  }
}
