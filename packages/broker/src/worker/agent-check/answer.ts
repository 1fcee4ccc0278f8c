/** State of one service, as an agent check needs it. */
export interface Capacity {
  readonly service: string
  /** Backends that may get a connection now. */
  readonly ready: number
  /** Backends that the service should have. */
  readonly expected: number
  /** There are upstreams, which need no backend. */
  readonly relays: boolean
  /** How long the client has waited that was held first, in milliseconds; 0 if none is held. */
  readonly heldFor: number
  /** In milliseconds. */
  readonly holdTimeout: number
}

/** HAProxy's words: the weight of the server in percent, no new connections, or out of service. */
export type AgentAnswer =
  | { readonly state: 'up'; readonly weight: number }
  | { readonly state: 'drain' }
  | { readonly state: 'down'; readonly reason: string }

/**
 * Clients may go to each service, so the host is as good as the worst of them. The weight is at least 1 %: with 0 % HAProxy sends nothing, and a host
 * that can serve is better than none.
 */
export function agentAnswer(isDraining: boolean, services: readonly Capacity[]): AgentAnswer {
  if (isDraining) return { state: 'drain' }
  const without = services.find(({ ready, relays }) => ready === 0 && !relays)
  if (without !== undefined)
    return { state: 'down', reason: `service ${without.service} has no ready backend` }
  const share = Math.min(1, ...services.map(shareOf))
  return { state: 'up', weight: Math.max(1, Math.floor(share * 100)) }
}

/** Less than one hundredth of the timeout is no reason to send clients elsewhere: that is how long a burst waits. */
function shareOf({ ready, expected, relays, heldFor, holdTimeout }: Capacity): number {
  const present = relays ? 1 : Math.min(1, ready / Math.max(1, expected))
  const patience = heldFor === 0 ? 1 : Math.max(0, 1 - heldFor / Math.max(1, holdTimeout))
  return present * (Math.ceil(patience * 100) / 100)
}

/**
 * As HAProxy 2.6 reads it: the newline ends the answer; `ready` undoes a `drain`, which `up` alone does not; a reason needs the blank before `#`, or the
 * word before it is ignored.
 */
export function formatAnswer(answer: AgentAnswer): string {
  if (answer.state === 'up') return `up ready ${answer.weight}%\n`
  return answer.state === 'drain' ? 'drain\n' : `down #${answer.reason}\n`
}
