import { locate } from '../configuration.ts'
import { askBroker } from '../admin-client.ts'
import { otherVersion } from '../answers.ts'
import { configOption, DEFAULT_CONFIG, type Command } from '../command.ts'
import { parseDurationOption } from '../duration-option.ts'
import { DONE } from '../../exit-codes.ts'
import { SUMMARIES } from '../summaries.ts'

export const pause: Command = {
  name: 'pause',
  operands: ['SERVICE'],
  summary: SUMMARIES.pause,
  details: [
    'Holds new connections to a service, unread and in order, until `baton resume` or the end of --for. Connections that backends have',
    'go on. As always, at most maxHeld are held, for at most holdTimeout. The pause outlives reloads, and the deaths of processes.',
  ].join('\n'),
  options: {
    for: { value: 'DURATION', help: 'resume by itself after this time, such as 30s' },
    ...configOption,
  },
  async run({ operands, values }, terminal) {
    const [service = ''] = operands
    const time = parseDurationOption('for', values.get('for'), 1)
    const config = await locate(values.get('config') ?? DEFAULT_CONFIG)
    const body = time === undefined ? {} : { for: time }
    const answer: unknown = await askBroker(config, 'POST', controlPath(service, 'pause'), body)
    const { paused } = Object(answer)
    const { since, until = null } = Object(paused)
    if (typeof since !== 'string') throw otherVersion('a pause')
    terminal.out(
      `${service}: paused${until === null ? '' : ` until ${String(until)}`}; new connections are held`,
    )
    return DONE
  },
}

export const resume: Command = {
  name: 'resume',
  operands: ['SERVICE'],
  summary: SUMMARIES.resume,
  details: 'Ends the pause of a service: the connections that are held go to its backends, in order.',
  options: { ...configOption },
  async run({ operands, values }, terminal) {
    const [service = ''] = operands
    const config = await locate(values.get('config') ?? DEFAULT_CONFIG)
    const answer: unknown = await askBroker(config, 'POST', controlPath(service, 'resume'), {})
    const { resumed } = Object(answer)
    if (typeof resumed !== 'boolean') throw otherVersion('a pause')
    terminal.out(`${service}: ${resumed ? 'resumed' : 'was not paused'}`)
    return DONE
  },
}

/** Of a request that controls a service. */
export function controlPath(service: string, what: string): string {
  return `/api/v1/services/${encodeURIComponent(service)}/${what}`
}
