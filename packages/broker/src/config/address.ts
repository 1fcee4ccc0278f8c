import { isIPv4, isIPv6, SocketAddress } from 'node:net'

/** Address of a listening socket. `host` is a numeric address; IPv6 is in canonical form, without brackets. */
export type Address =
  | { readonly kind: 'tcp'; readonly host: string; readonly port: number }
  | { readonly kind: 'unix'; readonly path: string }

/** sun_path has 108 bytes, including the terminating NUL (unix(7)). */
export const MAX_UNIX_PATH_BYTES = 107

/**
 * Parses `127.0.0.1:8080`, `[::1]:8080`, `localhost:8080` (always 127.0.0.1; no resolver is involved) or
 * `unix:/run/app.sock`. Port 0 lets the kernel choose.
 *
 * @returns the address, or an error message
 */
export function parseAddress(text: string): Address | string {
  if (text.startsWith('unix:')) return parseUnix(text.slice('unix:'.length))

  const match = /^(?:\[([^\]]*)\]|([^:[\]]*)):(\d{1,5})$/.exec(text)
  if (match === null) {
    if (isIPv6(text.replace(/:\d+$/, ''))) return 'write an IPv6 address in brackets, like "[::1]:8080"'
    return 'expected "host:port", "[v6]:port" or "unix:/path"'
  }
  const [, v6, host, digits] = match
  const port = Number(digits)
  if (port > 65_535) return `port ${port} is out of range (0 to 65535)`
  if (v6 !== undefined) return parseV6(v6, port)
  if (host === 'localhost') return { kind: 'tcp', host: '127.0.0.1', port }
  if (host === '' || host === '*')
    return `name a host: "0.0.0.0:${port}" or "[::]:${port}" for all interfaces`
  if (host !== undefined && isIPv4(host)) return { kind: 'tcp', host, port }
  return `"${host}" is not an IP address; host names other than "localhost" are not resolved`
}

function parseV6(host: string, port: number): Address | string {
  if (!isIPv6(host)) return `"${host}" is not an IPv6 address`
  if (host.includes('%')) return 'an IPv6 zone ("%eth0") is not supported'
  return { kind: 'tcp', host: new SocketAddress({ address: host, family: 'ipv6' }).address, port }
}

function parseUnix(path: string): Address | string {
  if (!path.startsWith('/')) return 'a Unix socket needs an absolute path, like "unix:/run/app.sock"'
  if (path.includes('\0')) return 'a Unix socket path cannot contain a NUL byte'
  const bytes = Buffer.byteLength(path)
  if (bytes > MAX_UNIX_PATH_BYTES) {
    return `the socket path has ${bytes} bytes; the kernel allows at most ${MAX_UNIX_PATH_BYTES}`
  }
  return { kind: 'unix', path }
}

/** Inverse of `parseAddress`. */
export function formatAddress(address: Address): string {
  if (address.kind === 'unix') return `unix:${address.path}`
  return address.host.includes(':') ? `[${address.host}]:${address.port}` : `${address.host}:${address.port}`
}

/** Whether only this host can reach the address: 127.0.0.0/8, ::1, or a Unix socket. */
export function isLoopback(address: Address): boolean {
  return address.kind === 'unix' || address.host === '::1' || address.host.startsWith('127.')
}
