import * as z from 'zod'

/**
 * The part of a fleet that crosses a re-execution of the master, as JSON. The reader may be another version than the writer, so later
 * additions need a default.
 */

const whole = z.int().min(0)
const time = z.number()
const fd = whole.nullable()

const definition = z.object({
  service: z.string(),
  command: z.array(z.string()).min(1).readonly(),
  env: z.record(z.string(), z.string()).readonly(),
  cwd: z.string(),
  folder: z.string().optional(),
  chosen: z.object({ name: z.string(), variables: z.record(z.string(), z.string()) }).optional(),
  version: z.string().nullable(),
})

const generation = z.object({ number: whole, definition })

const exit = z.object({
  code: z.number().nullable(),
  signal: z
    .custom<NodeJS.Signals>((value) => typeof value === 'string' && value.startsWith('SIG'))
    .nullable(),
  error: z.string().optional(),
  errno: z.string().optional(),
})

const life = z.discriminatedUnion('kind', [
  z.object({ kind: z.literal('running') }),
  z.object({ kind: z.literal('draining'), until: time, unobserved: z.boolean().optional() }),
  z.object({ kind: z.literal('terminating'), until: time }),
  z.object({ kind: z.literal('killed') }),
  z.object({ kind: z.literal('gone') }),
])

const process = z.object({
  id: z.string(),
  startedAt: time,
  since: time,
  generation: whole,
  numbers: z.object({ pid: z.int().min(1), stdout: fd, stderr: fd, exit: exit.nullable() }),
  /** Base64. */
  partial: z.object({ stdout: z.string(), stderr: z.string() }),
  life,
  /** Such as `web-1`; null until it has registered. */
  slot: z.string().nullable().default(null),
  /** When the kernel started it, in clock ticks since boot; null if that is not known. */
  started: z.string().nullable().default(null),
  /** It is no child of this process: a master that was killed had started it. */
  foreign: z.boolean().default(false),
  /** Time left to register, in ms; null once it has registered or was reported. */
  unregistered: whole.nullable().default(null),
})

const instance = z.object({
  number: z.int().min(1),
  generation: whole,
  restarts: whole,
  history: z.object({ delay: time, crashes: z.array(time).readonly(), crashed: z.boolean() }),
  /** Time of the next start; null while it runs. */
  until: time.nullable(),
  since: time,
  process: process.nullable(),
})

const service = z.object({
  name: z.string(),
  /** Number of the generation of new instances. */
  stable: whole,
  /** The highest number so far. */
  latest: whole,
  generations: z.array(generation),
  instances: z.array(instance),
  /** An operator's number of instances, in force while the configuration says `configured`. */
  scaled: z.object({ to: whole, configured: whole }).optional(),
  /** In ms, until the next configuration. Absent from an older program: that of the fleet. */
  drainDeadline: whole.optional(),
  /** Processes that are being ended, with the name of their instance. */
  leaving: z.array(z.object({ instance: z.string(), process })),
})

export const fleetState = z.object({ drainDeadline: time, services: z.array(service) })

export type ProcessState = z.output<typeof process>
export type InstanceRecord = z.output<typeof instance>
export type ServiceState = z.output<typeof service>
export type FleetState = z.output<typeof fleetState>

/** All processes, each with the name of its instance. */
export function* processesOf({ services }: FleetState): Iterable<readonly [instance: string, ProcessState]> {
  for (const { name, instances, leaving } of services) {
    for (const { number, process: current } of instances)
      if (current !== null) yield [`${name}.${number}`, current]
    for (const { instance: left, process: ending } of leaving) yield [left, ending]
  }
}
