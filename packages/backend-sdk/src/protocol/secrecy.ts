/**
 * Tokens and secrets get into logs by accident, through `inspect` and JSON. Therefore decoded frames print without them.
 */
import { inspect, type InspectOptions } from 'node:util'
import type { HelloFrame, TicketKeysFrame } from './frames.ts'

const HIDDEN_TOKEN = '[token]'
const HIDDEN_SECRET = '[secret]'

const sealedPrototype: object = Object.create(Buffer.prototype, {
  [inspect.custom]: { value: () => HIDDEN_TOKEN },
  toJSON: { value: () => HIDDEN_TOKEN },
})

/**
 * Makes a token print as `[token]` in `inspect` (console, assertion messages) and in JSON, and returns it. Otherwise it remains an
 * ordinary Buffer; copies and slices of it are not sealed.
 */
export function sealToken(token: Buffer): Buffer {
  Object.setPrototypeOf(token, sealedPrototype)
  return token
}

/** Makes a HELLO print its secret as `[secret]`, and returns it. The member `secret` keeps its value. */
export function sealHello(hello: HelloFrame): HelloFrame {
  return sealed(hello, () => ({ ...hello, secret: hello.secret === null ? null : HIDDEN_SECRET }))
}

/** Makes TICKET_KEYS print its keys as `[secret]`, and returns it. The member `keys` keeps its value. */
export function sealTicketKeys(frame: TicketKeysFrame): TicketKeysFrame {
  return sealed(frame, () => ({ ...frame, keys: HIDDEN_SECRET }))
}

function sealed<T extends object>(frame: T, shown: () => object): T {
  return Object.defineProperties(frame, {
    [inspect.custom]: { value: (_depth: number, options: InspectOptions) => inspect(shown(), options) },
    toJSON: { value: shown },
  })
}
