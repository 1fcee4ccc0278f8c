import type { GivenBackReason, HandBack, ResumedKind, SettledOutcome } from '@baton/backend-sdk/protocol'
import type { BackendLink } from '../backend/backend-link.ts'
import type { ResumableHandBack } from '../backend/link-host.ts'
import { type ClientConnection, InheritedClient, nextArrival } from '../connection/connection.ts'
import { type ResumeState, stateBytes } from '../connection/resume-state.ts'
import type { Os } from '../os.ts'

/** Maximum bytes of state that one service keeps for connections between two backends. */
export const MAX_RESUME_BYTES = 64 * 1024 * 1024

/**
 * Connections with state, between the backend that has handed each of them back and the one that goes on with it:
 *
 *     taken -- offered to a backend that resumes the schema -- ACK --> resumed
 *                 -- no such backend now --> held -- one is ready --> offered
 *                                                 -- hold timeout, client left --> ended, without a byte
 *           -- this worker is replaced --> the next worker's
 *
 * Knows who may go on with which of them, and how much memory they take. The connections themselves are the service's.
 */
export class Resuming {
  readonly #links: ReadonlyMap<string, BackendLink>
  readonly #limit: number
  #bytes = 0

  /** @param links by slot; owned by the service */
  constructor(links: ReadonlyMap<string, BackendLink>, limit = MAX_RESUME_BYTES) {
    this.#links = links
    this.#limit = limit
  }

  /** Bytes of state that are kept now. */
  get bytes(): number {
    return this.#bytes
  }

  /**
   * Why a connection that carries state is not taken.
   *
   * @param giver ULID of the backend that hands it back
   * @param before bytes of others that are about to be kept
   */
  refusal(entry: HandBack, giver: string, before: number): GivenBackReason | undefined {
    for (const link of this.#links.values()) {
      if (link.identity.ulid === giver || !link.resumes(entry.schema)) continue
      if (link.eligibility.state !== 'ready') continue
      return this.#bytes + before + stateBytes(entry) > this.#limit ? 'TooMany' : undefined
    }
    return 'NoTaker'
  }

  /** A connection that is about to be taken, as it arrives: it is the caller's until then. */
  arrival({ fd, entry, listener, giver, settled }: ResumableHandBack, os: Os): ClientConnection {
    const kind = entry.kind as ResumedKind
    return new InheritedClient(fd, {
      order: nextArrival(),
      listener,
      peer: os.peer(fd.fd),
      id: entry.connection,
      acceptedAt: os.now(),
      handedBack: kind,
      resume: this.keep({ ...entry, kind }, giver, settled),
    })
  }

  /**
   * Keeps what the next backend needs. `settled` of the result must be called once, and calls `told`.
   *
   * @param giver ULID of the backend that has handed it back
   */
  keep(
    { kind, schema, prefix, requestHead, answerHead, state }: ResumeState['block'],
    giver: string,
    told: (outcome: SettledOutcome) => void,
  ): ResumeState {
    const block = { kind, schema, prefix, requestHead, answerHead, state }
    const size = stateBytes(block)
    this.#bytes += size
    return {
      block,
      giver,
      settled: (outcome) => {
        this.#bytes -= size
        told(outcome)
      },
    }
  }
}

/**
 * Whether this backend may be offered the connection now, as far as its state is concerned. Never its giver, under whichever registration:
 * that could not go on, or was asked to give it away.
 */
export function mayTake(link: BackendLink, { resume }: Pick<ClientConnection, 'resume'>): boolean {
  if (resume === undefined) return true
  return link.identity.ulid !== resume.giver && link.mayResume(resume.block.schema)
}
