import { CONNECTION_ENTRY, type SocketAddress, type SocketDiagnostics } from '@baton/native-sendmsg'
import { type Peer, peerAt, peerOf, type Source, sourceAt } from './source.ts'

/** Bound to all addresses of the host. */
const WILDCARDS: ReadonlySet<string> = new Set(['0.0.0.0', '::'])

/** Visits the open connections of one listener: the source of each, and, on request, its other end. */
export interface ConnectionTable {
  /** @throws {NativeError} */
  each(visit: (source: Source, peer: () => Peer) => void): Promise<void>
}

/**
 * The connections of a listener that any process of the host has open, as the kernel lists them: so the broker needs no word from backends, whatever
 * language they are written in, and a worker knows what its predecessors have accepted. Not those in the queue of accept(2).
 */
export class KernelTable implements ConnectionTable {
  readonly #diagnostics: SocketDiagnostics
  readonly #family: 'IPv4' | 'IPv6'
  readonly #port: number
  /** Undefined: whatever the local address is. */
  readonly #isLocal: ((bytes: Buffer, at: number) => boolean) | undefined

  /** @param bound the listening socket's address, of TCP */
  constructor(diagnostics: SocketDiagnostics, { family, address, port }: SocketAddress) {
    this.#diagnostics = diagnostics
    this.#family = family === 'IPv6' ? 'IPv6' : 'IPv4'
    this.#port = port
    if (WILDCARDS.has(address)) return
    // Compared as they are listed: another program may listen on this port at another address.
    const here = peerOf(address, 0)
    this.#isLocal = (bytes, at) => peerAt(bytes, at, this.#family, 0) === here
  }

  each(visit: (source: Source, peer: () => Peer) => void): Promise<void> {
    const family = this.#family
    const { local, remote, remotePort } = CONNECTION_ENTRY
    let entry: Buffer = Buffer.alloc(0)
    let start = 0
    const peer = () => peerAt(entry, start + remote, family, entry.readUInt16BE(start + remotePort))
    return this.#diagnostics.eachConnection(family, this.#port, (bytes, at) => {
      if (this.#isLocal?.(bytes, at + local) === false) return
      entry = bytes
      start = at
      visit(sourceAt(bytes, at + remote, family), peer)
    })
  }
}
