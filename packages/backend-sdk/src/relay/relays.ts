import { type IncomingRelay, RelayEndpoint } from './relay-endpoint.ts'

/** The relay endpoint of a registration, or none. */
export interface Relays {
  /** The path sent in HELLO; null: this registration takes no relays. */
  readonly path: string | null
  onArrival(listener: (relay: IncomingRelay) => void): void
  close(): void
}

/** A registration without an endpoint. */
export const noRelays: Relays = { path: null, onArrival: () => {}, close: () => {} }

/**
 * Opens an endpoint, or returns none and the reason: this user may write neither beside the control socket nor to the temporary
 * folder, or both paths are too long. Relays are only a fallback; a backend without an endpoint still takes descriptors.
 *
 * Parameters are those of `RelayEndpoint.open`.
 */
export async function openRelays(
  control: string,
  shared: boolean,
  headerTimeout: number,
): Promise<{ relays: Relays; problem: Error | undefined }> {
  try {
    return { relays: await RelayEndpoint.open(control, shared, headerTimeout), problem: undefined }
  } catch (error) {
    return { relays: noRelays, problem: error as Error }
  }
}
