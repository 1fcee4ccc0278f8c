import type * as z from 'zod'

import { formatPath, type ConfigProblem } from './error.ts'
import { nearMiss } from './near-miss.ts'
import { jsonSchema, type JsonSchema } from './schema.ts'

/** Keys of PM2's ecosystem file, and what takes their place. */
const NAMES_IN_PM2: ReadonlyMap<string, string> = new Map(
  Object.entries({
    command: ['script', 'args', 'interpreter', 'interpreter_args', 'node_args'],
    envFiles: ['env_production', 'env_staging', 'env_development', 'env_file'],
    maxMemory: ['max_memory_restart'],
    restartEvery: ['cron_restart'],
    drainDeadline: ['kill_timeout'],
    keepOutput: ['out_file', 'error_file', 'log_file', 'merge_logs', 'log_date_format'],
  }).flatMap(([ours, theirs]) => theirs.map((name) => [name, ours])),
)

/** Keys of PM2's ecosystem file that nothing here resembles: a name that is only spelt alike would mislead. */
const ONLY_IN_PM2: ReadonlySet<string> = new Set(
  (
    'name exec_mode namespace uid gid pid_file instance_var increment_var filter_env ' +
    'wait_ready listen_timeout shutdown_with_message autorestart stop_exit_codes treekill ' +
    'min_uptime max_restarts restart_delay exp_backoff_restart_delay watch ignore_watch ' +
    'source_map_support time vizion post_update'
  ).split(' '),
)

/** Converts zod's issues to problems that give the full path and what is expected. */
export function problemsOf(error: z.ZodError): ConfigProblem[] {
  return error.issues.flatMap((issue) => {
    if (issue.code === 'unrecognized_keys') {
      const allowed = allowedKeys(issue.path)
      return issue.keys.map((key) => ({
        path: formatPath([...issue.path, key]),
        message: `unknown key${otherName(key, allowed) ?? suggestion(key, allowed)}; allowed here: ${allowed.join(', ')}`,
      }))
    }
    // zod wraps the issues of a record's key: the message is one level down.
    if (issue.code === 'invalid_key') {
      return issue.issues.map(({ message }) => ({ path: formatPath(issue.path), message }))
    }
    return [{ path: formatPath(issue.path), message: issue.message }]
  })
}

/** Messages for issues that the schema gives no message for. Passed to `safeParse` as its error map. */
export function explain(issue: z.core.$ZodRawIssue): string | undefined {
  if (issue.code === 'invalid_type' || issue.code === 'invalid_value') {
    if (issue.input === undefined) return 'is required'
  }
  if (issue.code === 'invalid_type') return `expected ${article(issue.expected)}, got ${shown(issue.input)}`
  if (issue.code === 'invalid_value') {
    const allowed = issue.values.map(String)
    const hint = typeof issue.input === 'string' ? suggestion(issue.input, allowed) : ''
    return `${shown(issue.input)} is not one of ${allowed.map((value) => `"${value}"`).join(', ')}${hint}`
  }
  if (issue.code === 'too_small') {
    if (issue.origin === 'string' || issue.origin === 'array') return 'must not be empty'
    return `must be ${issue.inclusive === false ? 'more than' : 'at least'} ${issue.minimum}`
  }
  if (issue.code === 'too_big') return `must be at most ${issue.maximum}`
  return undefined
}

function otherName(key: string, allowed: readonly string[]): string | undefined {
  if (ONLY_IN_PM2.has(key) && allowed.includes('command')) return ' (a key of PM2 that does not exist here)'
  const ours = NAMES_IN_PM2.get(key)
  return ours === undefined || !allowed.includes(ours) ? undefined : ` (its name here is "${ours}")`
}

export function suggestion(word: string, known: Iterable<string>): string {
  const near = nearMiss(word, known)
  return near === undefined ? '' : ` (did you mean "${near}"?)`
}

function allowedKeys(path: readonly PropertyKey[]): string[] {
  let node: Node = jsonSchema()
  for (const key of path) node = child(objectOf(node), key)
  return Object.keys(objectOf(node)?.properties ?? {}).filter((key) => key !== '$schema')
}

type Node = JsonSchema | boolean | readonly Node[] | undefined

function child(object: JsonSchema | undefined, key: PropertyKey): Node {
  if (typeof key === 'number') return object?.items
  return object?.properties?.[String(key)] ?? object?.additionalProperties
}

/** zod writes a nullable object as `anyOf: [object, null]`. */
function objectOf(node: Node): JsonSchema | undefined {
  if (typeof node !== 'object' || !isSchema(node)) return undefined
  return node.anyOf?.find((option) => option.type === 'object') ?? node
}

function isSchema(node: JsonSchema | readonly Node[]): node is JsonSchema {
  return !Array.isArray(node)
}

function shown(value: unknown): string {
  if (value === null) return 'null'
  if (Array.isArray(value)) return 'an array'
  if (typeof value === 'object') return 'an object'
  const text = JSON.stringify(value)
  return text.length > 60 ? `${text.slice(0, 60)}...` : text
}

function article(expected: string): string {
  const word = expected === 'record' ? 'object' : expected === 'int' ? 'whole number' : expected
  return `${/^[aeiou]/.test(word) ? 'an' : 'a'} ${word}`
}
