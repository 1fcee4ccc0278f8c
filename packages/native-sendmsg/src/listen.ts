import { chmodSync, lstatSync } from 'node:fs'
import { isIPv6 } from 'node:net'
import {
  AF_INET,
  AF_INET6,
  AF_UNIX,
  IPPROTO_IPV6,
  IPPROTO_TCP,
  IPV6_V6ONLY,
  SO_KEEPALIVE,
  SO_REUSEADDR,
  SOCK_CLOEXEC,
  SOCK_NONBLOCK,
  SOCK_STREAM,
  SOL_SOCKET,
  TCP_NODELAY,
} from './abi.ts'
import type { OwnedFd } from './descriptors.ts'
import { NativeError, type NativeErrorContext } from './errors.ts'
import { lastErrno, libc } from './libc.ts'
import { refuseDescriptors } from './refuse-descriptors.ts'
import {
  addressArena,
  formatEndpoint,
  SOCKADDR,
  writeInternetAddress,
  writeUnixAddress,
} from './socket-address.ts'
import { createSocket, setOption } from './sockets.ts'

/** Node's default; the kernel caps it at `net.core.somaxconn`. */
const DEFAULT_BACKLOG = 511
const DEFAULT_MODE = 0o600

export interface ListenTcpOptions {
  /** An IPv4 or IPv6 address; names are not resolved. */
  host: string
  /** 0 lets the kernel choose; `localAddress` returns the choice. */
  port: number
  backlog?: number | undefined
  /** TCP_NODELAY; accepted sockets inherit it. */
  noDelay?: boolean | undefined
  /** SO_KEEPALIVE; accepted sockets inherit it. */
  keepAlive?: boolean | undefined
  /** Prevents an IPv6 wildcard from also accepting IPv4 clients (default false). */
  ipv6Only?: boolean | undefined
}

/**
 * Creates a listening TCP socket, nonblocking, CLOEXEC, SO_REUSEADDR, owned by the caller. NativeError (EADDRINUSE,
 * EADDRNOTAVAIL, EACCES...) names the address, also as `.address`.
 */
export function listenTcp(options: ListenTcpOptions): OwnedFd {
  const { host, port } = options
  const v6 = isIPv6(host)
  const socket = createSocket(v6 ? AF_INET6 : AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC)
  try {
    setOption(socket.fd, SOL_SOCKET, SO_REUSEADDR, 1)
    if (v6) setOption(socket.fd, IPPROTO_IPV6, IPV6_V6ONLY, options.ipv6Only === true ? 1 : 0)
    if (options.noDelay === true) setOption(socket.fd, IPPROTO_TCP, TCP_NODELAY, 1)
    if (options.keepAlive === true) setOption(socket.fd, SOL_SOCKET, SO_KEEPALIVE, 1)
    const context = { fd: socket.fd, address: formatEndpoint(host, port) }
    bindTo(socket, writeInternetAddress(addressArena(), host, port), context)
    startListening(socket, options.backlog, context)
    return socket
  } catch (error) {
    socket.close()
    throw error
  }
}

export interface ListenUnixOptions {
  /** Must not exist; `\0name` is an abstract socket, which has no mode. */
  path: string
  /** Permission bits; connecting requires write permission. Default 0o600. */
  mode?: number | undefined
  backlog?: number | undefined
  /** Whether clients may send descriptors (default true). False: see `refuseDescriptors`. */
  descriptors?: boolean | undefined
}

/**
 * Creates a listening Unix stream socket, nonblocking, CLOEXEC; the caller owns it and unlinks the path. The
 * permissions of the file never exceed `mode`, even briefly, and the umask of the process is not changed: bind(2)
 * creates the file with the mode of the socket's own inode minus the umask (kernel `unix_bind_bsd`), so that mode
 * is set first; bits removed by the umask are restored before the socket listens.
 */
export function listenUnix(options: ListenUnixOptions): OwnedFd {
  const { path, mode = DEFAULT_MODE } = options
  const length = writeUnixAddress(addressArena(), 'bind', path)
  const socket = createSocket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC)
  const context = { fd: socket.fd, path }
  try {
    if (options.descriptors === false) refuseDescriptors(socket.fd)
    // Not Node's: Deno's answers EBADF for a descriptor that Deno did not open itself.
    if (libc.fchmod(socket.fd, mode) === -1) throw new NativeError('fchmod', lastErrno(), context)
    bindTo(socket, length, context)
    if (!path.startsWith('\0')) widen(path, mode)
    startListening(socket, options.backlog, context)
    return socket
  } catch (error) {
    socket.close()
    throw error
  }
}

/** Changes the file only if the umask removed bits. */
function widen(path: string, mode: number): void {
  if ((lstatSync(path).mode & 0o777) !== mode) chmodSync(path, mode)
}

function bindTo(socket: OwnedFd, length: number, context: NativeErrorContext): void {
  if (libc.bind(socket.fd, addressArena().address + SOCKADDR, length) === -1) {
    throw new NativeError('bind', lastErrno(), context)
  }
}

function startListening(socket: OwnedFd, backlog = DEFAULT_BACKLOG, context: NativeErrorContext): void {
  if (libc.listen(socket.fd, backlog) === -1) throw new NativeError('listen', lastErrno(), context)
}
