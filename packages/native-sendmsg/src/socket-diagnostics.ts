import { AF_INET, AF_INET6, AF_NETLINK, IPPROTO_TCP, MSG_DONTWAIT, SOCK_CLOEXEC, SOCK_RAW } from './abi.ts'
import { lazyArena } from './arena.ts'
import { OwnedFd } from './descriptors.ts'
import { EINTR, EPROTO } from './errno.ts'
import { NativeError } from './errors.ts'
import { lastErrno, libc } from './libc.ts'

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
const STATES = [1, 4, 5, 8, 9, 11].reduce((mask, state) => mask | (1 << state), 0)

/** The kernel sends at most 32 KiB at a time. */
const CHUNK = 64 * 1024
const arena = lazyArena(CHUNK)

/**
 * Where the fields of a connection are, from the offset that a visitor gets. Ports are big-endian; an address has 16 bytes, of which those of an
 * IPv4 socket are the first 4.
 */
export const CONNECTION_ENTRY = { localPort: 0, remotePort: 2, local: 4, remote: 20 } as const

/** Lists connections of this network namespace, whichever process has them. Owns a netlink socket until `close`. */
export class SocketDiagnostics {
  readonly #socket: OwnedFd
  #sequence = 0

  private constructor(socket: OwnedFd) {
    this.#socket = socket
  }

  /** Needs no privilege. @throws {NativeError} such as EPROTONOSUPPORT: the kernel was built without it; EACCES: forbidden here */
  static open(): SocketDiagnostics {
    const fd = libc.socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_SOCK_DIAG)
    if (fd === -1) throw new NativeError('socket', lastErrno(), { fd: -1 })
    return new SocketDiagnostics(new OwnedFd(fd))
  }

  /**
   * Visits every TCP connection with this local port that some process has open: not those that still wait for accept(2), and not those that the
   * kernel keeps after the last close. The visitor gets memory that is reused for the next ones (`CONNECTION_ENTRY`), and must not throw.
   *
   * Takes some milliseconds: the kernel searches its whole table of connections. One that opens or closes meanwhile may be missing, or visited.
   *
   * @throws {NativeError} ENOENT: the kernel has no tcp_diag
   */
  eachConnection(family: 'IPv4' | 'IPv6', port: number, visit: (entry: Buffer, at: number) => void): void {
    const { buffer } = arena()
    const sequence = (this.#sequence = (this.#sequence + 1) >>> 0)
    buffer.fill(0, 0, REQUEST)
    buffer.writeUInt32LE(REQUEST, 0)
    buffer.writeUInt16LE(SOCK_DIAG_BY_FAMILY, TYPE)
    buffer.writeUInt16LE(NLM_F_REQUEST | NLM_F_DUMP, TYPE + 2)
    buffer.writeUInt32LE(sequence, SEQUENCE)
    buffer.writeUInt8(family === 'IPv4' ? AF_INET : AF_INET6, HEADER)
    buffer.writeUInt8(IPPROTO_TCP, HEADER + 1)
    buffer.writeUInt32LE(STATES, REQUEST_STATES)
    buffer.writeUInt16BE(port, REQUEST_PORT)
    this.#call('send', (fd, address) => libc.send(fd, address, REQUEST, MSG_DONTWAIT))
    for (;;) {
      const length = this.#call('recv', (fd, address) => libc.recv(fd, address, CHUNK, MSG_DONTWAIT))
      if (this.#visitAll(buffer, length, sequence, visit)) return
    }
  }

  close(): void {
    this.#socket.close()
  }

  #call(name: string, call: (fd: number, address: number) => number): number {
    for (;;) {
      const result = call(this.#socket.fd, arena().address)
      if (result !== -1) return result
      const errno = lastErrno()
      if (errno !== EINTR) throw new NativeError(name, errno, { fd: this.#socket.fd })
    }
  }

  /** @returns whether it was the last message */
  #visitAll(
    buffer: Buffer,
    length: number,
    sequence: number,
    visit: (entry: Buffer, at: number) => void,
  ): boolean {
    for (let at = 0; at + HEADER <= length;) {
      const size = buffer.readUInt32LE(at)
      if (size < HEADER || at + size > length) throw new NativeError('recv', EPROTO, { fd: this.#socket.fd })
      const type = buffer.readUInt16LE(at + TYPE)
      if (buffer.readUInt32LE(at + SEQUENCE) === sequence) {
        if (type === NLMSG_DONE) return true
        if (type === NLMSG_ERROR)
          throw new NativeError('recv', -buffer.readInt32LE(at + HEADER), { fd: this.#socket.fd })
        if (type === SOCK_DIAG_BY_FAMILY && size >= ENTRY && buffer.readUInt32LE(at + ENTRY_INODE) !== 0)
          visit(buffer, at + ENTRY_ADDRESSES)
      }
      at += Math.ceil(size / 4) * 4
    }
    return false
  }
}
