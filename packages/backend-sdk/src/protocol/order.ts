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
    ],
  },
}

/**
 * Which frame may come next on one control connection, from the receiver's side: `role` is who receives.
 * One instance for each connection; it looks at the types of frames and at nothing else.
 */
export class FrameOrder {
  readonly #role: 'broker' | 'backend'
  #state: State = 'greeting'

  constructor(role: 'broker' | 'backend') {
    this.#role = role
  }

  /** @throws {ProtocolError} `BATON_ERR_FRAME_OUT_OF_ORDER`, and the frame counts as not seen. */
  check(frame: Frame): void {
    const allowed = this.#allowed()
    if (!allowed.includes(frame.type)) {
      const wanted = allowed.length === 0 ? 'nothing' : allowed.join(', ').toUpperCase()
      throw new ProtocolError(
        'BATON_ERR_FRAME_OUT_OF_ORDER',
        `${frame.type.toUpperCase()} is out of order at the ${this.#role}, wanted ${wanted}`,
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
