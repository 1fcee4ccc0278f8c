/** What a call of `server.listen()` asks for, when it is for a TCP port of its own choice. */
export interface ListenTarget {
  /** As the app gave it: an IP address or a name. Undefined when it gave none: every address of this machine. */
  readonly host: string | undefined
  /** 1 to 65535. */
  readonly port: number
  /** Closes the server. */
  readonly signal: AbortSignal | undefined
  /** Called when the server listens. */
  readonly callback: (() => void) | undefined
}

const MAX_PORT = 65_535

/**
 * Reads the arguments as `net.Server.listen()` does (https://nodejs.org/api/net.html#serverlisten): `port[, host][, backlog][,
 * callback]` or `{ port, host, signal, ... }[, callback]`. Undefined for everything else: paths, handles, descriptors, port 0
 * (whoever lets the kernel choose wants a port of its own), and what Node refuses. Pure.
 *
 * `backlog`, `ipv6Only`, `exclusive` and `reusePort` are the business of whoever owns the socket.
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
  // Node looks at these first.
  if (handle !== undefined || typeof fd === 'number') return undefined
  // Node's to refuse.
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
  // A string that is a number is a port, any other one a path.
  const port = typeof given === 'string' && given.trim() !== '' ? Number(given) : given
  if (typeof port !== 'number' || !Number.isInteger(port) || port < 1 || port > MAX_PORT) return undefined
  return { host: host === '' ? undefined : host, port, signal, callback }
}
