import { chmodSync, fchmodSync, lstatSync } from 'node:fs'
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

/** Node's own default; the kernel cuts it to `net.core.somaxconn`. */
const DEFAULT_BACKLOG = 511
const DEFAULT_MODE = 0o600

export interface ListenTcpOptions {
  /** An IPv4 or IPv6 literal; names are not resolved. */
  host: string
  /** 0 lets the kernel choose; `localAddress` tells. */
  port: number
  backlog?: number | undefined
  /** TCP_NODELAY; accepted sockets inherit it. */
  noDelay?: boolean | undefined
  /** SO_KEEPALIVE; accepted sockets inherit it. */
  keepAlive?: boolean | undefined
  /** Keeps an IPv6 wildcard from taking IPv4 clients too (default false). */
  ipv6Only?: boolean | undefined
}

/**
 * A listening TCP socket, nonblocking, CLOEXEC, SO_REUSEADDR; the caller owns it. NativeError (EADDRINUSE,
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
  /** Must not exist yet; `\0name` is an abstract socket, which has no mode. */
  path: string
  /** Who may connect (write permission), default 0o600. */
  mode?: number | undefined
  backlog?: number | undefined
  /** Whether clients may send descriptors, default true. With false see `refuseDescriptors`. */
  descriptors?: boolean | undefined
}

/**
 * A listening Unix stream socket, nonblocking, CLOEXEC; the caller owns it and unlinks the path. The file
 * is never wider than `mode`, even for an instant, and no other thread's umask is touched: bind(2) makes
 * the file with the mode of the socket's own inode less the umask (kernel `unix_bind_bsd`), so that mode is
 * set first; what the umask took away is given back before the socket listens.
 */
export function listenUnix(options: ListenUnixOptions): OwnedFd {
  const { path, mode = DEFAULT_MODE } = options
  const length = writeUnixAddress(addressArena(), 'bind', path)
  const socket = createSocket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC)
  const context = { fd: socket.fd, path }
  try {
    if (options.descriptors === false) refuseDescriptors(socket.fd)
    fchmodSync(socket.fd, mode)
    bindTo(socket, length, context)
    if (!path.startsWith('\0')) widen(path, mode)
    startListening(socket, options.backlog, context)
    return socket
  } catch (error) {
    socket.close()
    throw error
  }
}

/** Touches the file only where the umask took something away. */
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
