/** Names that a route accepts: `shop.example`, `*.shop.example` for every name below it, or `*` for any name. */
export type HostPattern = string

const LABEL = '[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?'
const NAME = new RegExp(`^${LABEL}(?:\\.${LABEL})*$`)
const MAX_NAME = 253

/** @returns what is wrong with the pattern, in lower case; undefined if nothing is */
export function hostPatternProblem(pattern: HostPattern): string | undefined {
  if (pattern === '*' || /^\[[0-9a-f:.]+\]$/.test(pattern)) return undefined
  const name = pattern.startsWith('*.') ? pattern.slice(2) : pattern
  if (name.includes('*')) return 'a "*" can only be the first label, like "*.example.com"'
  if (NAME.test(name) && name.length <= MAX_NAME) return undefined
  return 'expected a host name without a port, like "shop.example" or "*.shop.example"'
}

/** Whether `pattern` accepts the name, which is in lower case and has no final dot. */
export function acceptsHost(pattern: HostPattern, name: string): boolean {
  if (pattern === name) return true
  if (!pattern.startsWith('*')) return false
  return pattern === '*' ? name !== '' : name.length >= pattern.length && name.endsWith(pattern.slice(1))
}

/** Whether `pattern` accepts every name that `other` accepts. */
export function coversHost(pattern: HostPattern, other: HostPattern): boolean {
  if (pattern === '*' || pattern === other) return true
  return pattern.startsWith('*.') && other.replace(/^\*/, '').endsWith(pattern.slice(1)) && other !== '*'
}
