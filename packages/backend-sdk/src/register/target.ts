/** The arguments of a `server.listen()` call for a given TCP port. */
export interface ListenTarget {
  /** IP address or host name, as given by the app. Undefined if it gave none: all addresses of this machine. */
  readonly host: string | undefined
  /** 1 to 65535. */
  readonly port: number
  /** Closes the server when aborted. */
  readonly signal: AbortSignal | undefined
  /** Called when the server listens. */
  readonly callback: (() => void) | undefined
}

const MAX_PORT = 65_535

/**
 * Parses the arguments as `net.Server.listen()` does (https://nodejs.org/api/net.html#serverlisten): `port[, host][, backlog][,
 * callback]` or `{ port, host, signal, ... }[, callback]`. Returns undefined for everything else: paths, handles, descriptors, port
 * 0 (the process wants a port to itself), and arguments that Node refuses. Pure.
 *
 * `backlog`, `ipv6Only`, `exclusive` and `reusePort` are left to the owner of the socket, the master.
 */
export function listenTarget(args: readonly unknown[]): ListenTarget | undefined {
  const [first, second] = args
  const last = args.at(-1)
  const callback = typeof last === 'function' ? (last as () => void) : undefined
  if (typeof first !== 'object' || first === null) {
    const host = typeof second === 'string' ? second : undefined
    return targetOf(first, host, undefined, callback)
  }
  const { port, host, signal, fd, handle } = first as Record<string, unknown>
  // Node checks these first.
  if (handle !== undefined || typeof fd === 'number') return undefined
  // Node refuses these.
  if (signal !== undefined && !(signal instanceof AbortSignal)) return undefined
  if (host !== undefined && host !== null && typeof host !== 'string') return undefined
  return targetOf(port, host ?? undefined, signal, callback)
}

function targetOf(
  given: unknown,
  host: string | undefined,
  signal: AbortSignal | undefined,
  callback: (() => void) | undefined,
): ListenTarget | undefined {
  // A numeric string is a port; any other string is a path.
  const port = typeof given === 'string' && given.trim() !== '' ? Number(given) : given
  if (typeof port !== 'number' || !Number.isInteger(port) || port < 1 || port > MAX_PORT) return undefined
  return { host: host === '' ? undefined : host, port, signal, callback }
}
