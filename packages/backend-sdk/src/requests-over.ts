/** Resolves to true when a drain has only upgraded connections left, none of which can move; to false when it is over. */
type RequestsOver = () => Promise<boolean>

const offered = new WeakMap<object, RequestsOver>()

/** Makes `requestsOver` find it. */
export function offerRequestsOver(backend: object, whenOver: RequestsOver): void {
  offered.set(backend, whenOver)
}

/**
 * For frameworks that end WebSockets themselves when they close. Resolves when `drained`, the drain of this backend, is over; or before that, when
 * all requests have been answered and idle connections have moved or ended, so that only WebSockets are left, which nothing but their end or the
 * deadline would take away: there are none that may move to another process.
 */
export async function requestsOver(backend: object, drained: Promise<void>): Promise<void> {
  const over = offered.get(backend)?.() ?? Promise.resolve(false)
  await Promise.race([drained, over.then((areWebSockets) => (areWebSockets ? undefined : drained))])
}
