import { writeFileSync } from 'node:fs'
import { localAddress } from '@baton/native-sendmsg'
import type { OwnedFd } from '@baton/native-sendmsg'
import { formatAddress, parseConfigText, type Address } from '../config/index.ts'

/** What a program asks for that calls `listen(port)` under `baton run`. */
export interface PortRequest {
  readonly service: string
  readonly host: string
  readonly port: number
  readonly protocol: 'http' | 'tls' | 'tcp'
}

/** Where it is served. */
export interface OpenedPort {
  readonly service: string
  readonly address: string
  readonly port: number
}

/** Which listener serves a port that the app asked for; by port, since each of its processes asks for the same. */
export type Claims = Readonly<Record<string, string>>

/** Name of the listener of `baton run --listen ADDR`, which is the app's first port whatever it asks for. */
export const GIVEN_LISTENER = 'listen'

interface Parts {
  listeners: { name: string; listen: string; protocol: string; service: string }[]
  services: Record<string, unknown>
}

/** A claim, decided: the listener that is there for it, or the configuration with one more. */
export type Decision =
  | { readonly kind: 'there'; readonly listener: string }
  | {
      readonly kind: 'new'
      readonly listener: string
      readonly listen: Address
      readonly text: string
      readonly parts: { readonly listener: string; readonly service: string }
    }

/** The first port of an app is its service's own; each other one gets a service beside it. */
export function decide(
  text: string,
  claims: Claims,
  { service, host, port, protocol }: PortRequest,
): Decision {
  const claimed = claims[String(port)]
  if (claimed !== undefined) return { kind: 'there', listener: claimed }
  const parts = JSON.parse(text) as Parts
  const first = Object.keys(claims).length === 0
  if (first && parts.listeners.some(({ name }) => name === GIVEN_LISTENER))
    return { kind: 'there', listener: GIVEN_LISTENER }
  const owner = first ? service : `${service}-${port}`
  const name = `port-${port}`
  const listen: Address = { kind: 'tcp', host, port }
  const listener = { name, listen: formatAddress(listen), protocol, service: owner }
  parts.listeners.push(listener)
  parts.services[owner] ??= {}
  return {
    kind: 'new',
    listener: name,
    listen,
    text: `${JSON.stringify(parts, undefined, 2)}\n`,
    parts: {
      listener: JSON.stringify(listener),
      service: JSON.stringify({ ...(parts.services[owner] as object), name: owner }),
    },
  }
}

/** As the app is told: what `server.address()` says. */
export function describePort(text: string, file: string, listener: string, fd: OwnedFd): OpenedPort {
  const found = parseConfigText(text, file).listeners.find(({ name }) => name === listener)
  const { address, port } = localAddress(fd.fd)
  return { service: found?.service ?? '', address, port }
}

/** A reload, and a person, find what is served in the file. */
export function writeDown(file: string, text: string): void {
  writeFileSync(file, text)
}
