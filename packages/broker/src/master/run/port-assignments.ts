import { writeFileSync } from 'node:fs'
import { localAddress } from '@baton/native-sendmsg'
import type { OwnedFd } from '@baton/native-sendmsg'
import type { OpenedPort, PortRequest } from '../../ipc/operator-protocol.ts'
import { parseAddress, formatAddress, type Address } from '../../config/address.ts'
import { parseConfigText } from '../../config/config.ts'
import { parseJson } from '../../config/json.ts'

/** The listener for each port that the app requested. By port, because each process requests the same ones. */
export type PortAssignments = Readonly<Record<string, string>>

/** Name of the listener of `baton run --listen ADDR`, which serves the app's first port, whatever its number. */
export const GIVEN_LISTENER = 'listen'

interface Parts {
  listeners: { name: string; listen: string; protocol: string; service: string }[]
  services: Record<string, unknown>
}

/** How to serve a requested port: with an existing listener, or with a new one, for which `text` is the configuration. */
export type ListenerPlan =
  | { readonly kind: 'there'; readonly listener: string }
  | {
      readonly kind: 'new'
      readonly listener: string
      readonly listen: Address
      readonly text: string
    }

/**
 * The first port of an app belongs to its service; each other port gets its own service. Several addresses of one port (`localhost`
 * may be two) become several listeners of one service.
 */
export function planListener(
  text: string,
  claims: PortAssignments,
  { service, host, port, protocol }: PortRequest,
): ListenerPlan {
  const parts = partsOf(text)
  const listen = { kind: 'tcp', host, port } as const
  const address = formatAddress(listen)
  const claimed = parts.listeners.find(({ name }) => name === claims[String(port)])
  if (claimed !== undefined) {
    const same = parts.listeners.find((each) => each.listen === address)
    if (same !== undefined) return { kind: 'there', listener: same.name }
    if (claimed.name === GIVEN_LISTENER || !areDistinct(claimed.listen, listen))
      return { kind: 'there', listener: claimed.name }
  }
  const first = Object.keys(claims).length === 0
  if (first && parts.listeners.some(({ name }) => name === GIVEN_LISTENER))
    return { kind: 'there', listener: GIVEN_LISTENER }
  const owner = claimed?.service ?? (first ? service : `${service}-${port}`)
  const taken = parts.listeners.filter(({ name }) => name.startsWith(`port-${port}`)).length
  const name = taken === 0 ? `port-${port}` : `port-${port}-${taken + 1}`
  const listener = { name, listen: address, protocol, service: owner }
  parts.listeners.push(listener)
  parts.services[owner] ??= {}
  return {
    kind: 'new',
    listener: name,
    listen,
    text: `${JSON.stringify(parts, undefined, 2)}\n`,
  }
}

/** Of a configuration that has been checked. It may have comments, which the changed text does not keep. */
function partsOf(text: string): Parts {
  const json = parseJson(text)
  if (!json.ok) throw new Error(json.message)
  return json.value as Parts
}

const EVERY_ADDRESS = ['::', '0.0.0.0']

/** Whether both addresses can be bound, because neither includes the other. */
function areDistinct(before: string, { host }: Address & { kind: 'tcp' }): boolean {
  const former = parseAddress(before)
  if (typeof former === 'string' || former.kind === 'unix') return false
  return former.host !== host && ![former.host, host].some((each) => EVERY_ADDRESS.includes(each))
}

/** The answer to the app, as `server.address()` returns it. */
export function describePort(text: string, file: string, listener: string, fd: OwnedFd): OpenedPort {
  const found = parseConfigText(text, file).listeners.find(({ name }) => name === listener)
  const { address, port } = localAddress(fd.fd)
  return { service: found?.service ?? '', address, port }
}

/** So that a reload, and a person, find every listener in the file. */
export function writeDown(file: string, text: string): void {
  writeFileSync(file, text)
}
