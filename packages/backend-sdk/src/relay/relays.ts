import { type IncomingRelay, RelayEndpoint } from './relay-endpoint.ts'

/** What a registration needs of its endpoint for relays. */
export interface Relays {
  /** Named in HELLO; null: this registration takes no relays. */
  readonly path: string | null
  onArrival(listener: (relay: IncomingRelay) => void): void
  close(): void
}

/** A registration without an endpoint. */
export const noRelays: Relays = { path: null, onArrival: () => {}, close: () => {} }

/**
 * An endpoint, or none and the reason: where this user can write neither beside the control socket nor to the temporary folder,
 * and where the only paths are too long. Relays are a fallback, and a backend without one still takes descriptors.
 *
 * Parameters are those of `RelayEndpoint.open`.
 */
export async function openRelays(
  control: string,
  shared: boolean,
  patience: number,
): Promise<{ relays: Relays; problem: Error | undefined }> {
  try {
    return { relays: await RelayEndpoint.open(control, shared, patience), problem: undefined }
  } catch (error) {
    return { relays: noRelays, problem: error as Error }
  }
}
