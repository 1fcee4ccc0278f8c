import { AF_INET, AF_INET6, AF_NETLINK, IPPROTO_TCP, MSG_DONTWAIT, SOCK_CLOEXEC, SOCK_RAW } from './abi.ts'
import { Arena } from './arena.ts'
import { OwnedFd } from './descriptors.ts'
import { EBADF, EINTR, EPROTO } from './errno.ts'
import { NativeError } from './errors.ts'
import { lastErrno, libc, recvOnThread, sendOnThread } from './libc.ts'

// sock_diag(7), and include/uapi/linux/{netlink,sock_diag,inet_diag}.h.

const NETLINK_SOCK_DIAG = 4
const SOCK_DIAG_BY_FAMILY = 20
const NLM_F_REQUEST = 0x1
const NLM_F_DUMP = 0x300
const NLMSG_ERROR = 2
const NLMSG_DONE = 3

/** `struct nlmsghdr`: u32 length, u16 type, u16 flags, u32 sequence, u32 port. */
const HEADER = 16
const TYPE = 4
const SEQUENCE = 8
/** `struct inet_diag_req_v2`: family, protocol, extensions, padding, u32 states, `struct inet_diag_sockid`. */
const REQUEST = HEADER + 56
const REQUEST_STATES = HEADER + 4
const REQUEST_PORT = HEADER + 8
/** In `struct inet_diag_msg`, behind the header: the addresses, and u32 inode at the end. */
const ENTRY_ADDRESSES = HEADER + 4
const ENTRY_INODE = HEADER + 68
const ENTRY = HEADER + 72

/** ESTABLISHED, FIN_WAIT1, FIN_WAIT2, CLOSE_WAIT, LAST_ACK and CLOSING, by their numbers. */
const OPEN = [1, 4, 5, 8, 9, 11].reduce((mask, state) => mask | (1 << state), 0)
/** LISTEN: these are in a small table of their own. */
const LISTENING = 1 << 10

/** The kernel sends at most 32 KiB at a time. */
const CHUNK = 64 * 1024

/**
 * Where the fields of a connection are, from the offset that a visitor gets. Ports are big-endian; an address has 16 bytes, of which those of an
 * IPv4 socket are the first 4.
 */
export const CONNECTION_ENTRY = { localPort: 0, remotePort: 2, local: 4, remote: 20 } as const

export type ConnectionVisitor = (entry: Buffer, at: number) => void

/** Lists connections of this network namespace, whichever process has them. Owns a netlink socket until `close`. */
export class SocketDiagnostics {
  /** Undefined after a list that has failed. */
  #socket: OwnedFd | undefined
  readonly #arena = new Arena(CHUNK)
  #sequence = 0
  /** Lists are made one at a time. */
  #last: Promise<unknown> = Promise.resolve()
  #closing = false

  private constructor(socket: OwnedFd) {
    this.#socket = socket
  }

  /** Needs no privilege. @throws {NativeError} EPROTONOSUPPORT, ENOENT: the kernel was built without it; EACCES, EPERM: forbidden here */
  static open(): SocketDiagnostics {
    const socket = openNetlink()
    const diagnostics = new SocketDiagnostics(socket)
    try {
      diagnostics.#check(socket.fd)
      return diagnostics
    } catch (error) {
      diagnostics.close()
      throw error
    }
  }

  /**
   * Visits every TCP connection with this local port that some process has open: not those that still wait for accept(2), and not those that the
   * kernel keeps after the last close. The visitor gets memory that is reused for the next ones (`CONNECTION_ENTRY`). If it throws, the list fails.
   *
   * Takes some milliseconds of a thread of libuv's pool: the kernel searches its whole table of connections. One that opens or closes meanwhile may be
   * missing, or visited.
   *
   * @throws {NativeError}
   */
  eachConnection(family: 'IPv4' | 'IPv6', port: number, visit: ConnectionVisitor): Promise<void> {
    const listed = this.#last.then(() => this.#list(family, port, visit))
    this.#last = listed.catch(() => undefined)
    return listed
  }

  /** Lists that are being made fail. The socket is closed as soon as no thread uses it. */
  close(): void {
    this.#closing = true
    void this.#last.then(() => this.#socket?.close())
  }

  async #list(family: 'IPv4' | 'IPv6', port: number, visit: ConnectionVisitor): Promise<void> {
    const { address, buffer } = this.#arena
    const socket = this.#closing ? undefined : (this.#socket ??= openNetlink())
    try {
      const sequence = this.#request(OPEN, family, port)
      await this.#call('send', socket, (fd) => sendOnThread(fd, address, REQUEST, MSG_DONTWAIT))
      for (;;) {
        const length = await this.#call('recv', socket, (fd) =>
          recvOnThread(fd, address, CHUNK, MSG_DONTWAIT),
        )
        if (this.#visitAll(buffer, length, sequence, visit)) return
      }
    } catch (error) {
      // On this socket, the kernel refuses further lists (EBUSY) until the rest of this one was read.
      socket?.close()
      this.#socket = undefined
      throw error
    }
  }

  async #call(
    name: string,
    socket: OwnedFd | undefined,
    call: (fd: number) => Promise<number>,
  ): Promise<number> {
    for (;;) {
      if (this.#closing || socket === undefined) throw new NativeError(name, EBADF, { fd: -1 })
      const result = await call(socket.fd)
      if (result >= 0) return result
      if (-result !== EINTR) throw new NativeError(name, -result, { fd: -1 })
    }
  }

  /** Asks for something that is quickly found. */
  #check(fd: number): void {
    const { address, buffer } = this.#arena
    const sequence = this.#request(LISTENING, 'IPv4', 1)
    if (libc.send(fd, address, REQUEST, MSG_DONTWAIT) === -1)
      throw new NativeError('send', lastErrno(), { fd })
    let over = false
    while (!over) {
      const length = libc.recv(fd, address, CHUNK, MSG_DONTWAIT)
      if (length === -1 && lastErrno() === EINTR) continue
      if (length === -1) throw new NativeError('recv', lastErrno(), { fd })
      over = this.#visitAll(buffer, length, sequence, () => {})
    }
  }

  /** Writes a request into the arena. @returns its number */
  #request(states: number, family: 'IPv4' | 'IPv6', port: number): number {
    const { buffer } = this.#arena
    const sequence = (this.#sequence = (this.#sequence + 1) >>> 0)
    buffer.fill(0, 0, REQUEST)
    buffer.writeUInt32LE(REQUEST, 0)
    buffer.writeUInt16LE(SOCK_DIAG_BY_FAMILY, TYPE)
    buffer.writeUInt16LE(NLM_F_REQUEST | NLM_F_DUMP, TYPE + 2)
    buffer.writeUInt32LE(sequence, SEQUENCE)
    buffer.writeUInt8(family === 'IPv4' ? AF_INET : AF_INET6, HEADER)
    buffer.writeUInt8(IPPROTO_TCP, HEADER + 1)
    buffer.writeUInt32LE(states, REQUEST_STATES)
    buffer.writeUInt16BE(port, REQUEST_PORT)
    return sequence
  }

  /** @returns whether it was the last message */
  #visitAll(buffer: Buffer, length: number, sequence: number, visit: ConnectionVisitor): boolean {
    for (let at = 0; at + HEADER <= length;) {
      const size = buffer.readUInt32LE(at)
      if (size < HEADER || at + size > length) throw new NativeError('recv', EPROTO, { fd: -1 })
      const type = buffer.readUInt16LE(at + TYPE)
      if (buffer.readUInt32LE(at + SEQUENCE) === sequence) {
        if (type === NLMSG_DONE) return true
        if (type === NLMSG_ERROR) throw new NativeError('recv', -buffer.readInt32LE(at + HEADER), { fd: -1 })
        if (type === SOCK_DIAG_BY_FAMILY && size >= ENTRY && buffer.readUInt32LE(at + ENTRY_INODE) !== 0)
          visit(buffer, at + ENTRY_ADDRESSES)
      }
      at += Math.ceil(size / 4) * 4
    }
    return false
  }
}

function openNetlink(): OwnedFd {
  const fd = libc.socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_SOCK_DIAG)
  if (fd === -1) throw new NativeError('socket', lastErrno(), { fd: -1 })
  return new OwnedFd(fd)
}
