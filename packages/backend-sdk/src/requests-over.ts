/** Resolves when a drain has only upgraded connections left, none of which can move, or is over. */
type RequestsOver = () => Promise<void>

const offered = new WeakMap<object, RequestsOver>()

/** Makes `requestsOver` find it. */
export function offerRequestsOver(backend: object, whenOver: RequestsOver): void {
  offered.set(backend, whenOver)
}

/**
 * For frameworks that end WebSockets themselves when they close: of a backend that drains, resolves when all requests have been answered, and
 * idle connections have moved or ended. Only WebSockets are left, which nothing but their end or the deadline would take away: there are
 * none that may move to another process.
 */
export function requestsOver(backend: object): Promise<void> {
  return offered.get(backend)?.() ?? Promise.resolve()
}
