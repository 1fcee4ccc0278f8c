import { styleText } from 'node:util'
import type { BackendState } from '../../metrics/labels.ts'
import type { Terminal } from './terminal.ts'

/** Styles that every terminal has; its theme decides how the colours look. */
export type Style = 'bold' | 'dim' | 'red' | 'green' | 'yellow' | 'cyan'

/** Applies a style to a text, or leaves the text as it is. */
export type Paint = (style: Style, text: string) => string

export const plain: Paint = (_style, text) => text

// Newer versions of Node would otherwise check standard output and the environment themselves, which `paintFor` has done.
export const coloured: Paint = (style, text) => styleText(style, text, { validateStream: false })

/** https://no-color.org: any value that is not empty disables colours. */
export function wantsColours(env: NodeJS.ProcessEnv): boolean {
  return (env['NO_COLOR'] ?? '') === ''
}

export function paintFor({ display }: Terminal): Paint {
  return display?.colours === true ? coloured : plain
}

const OF_STATE: Readonly<Record<BackendState, Style>> = {
  ready: 'green',
  starting: 'cyan',
  draining: 'yellow',
  paused: 'yellow',
  unresponsive: 'red',
  unhealthy: 'red',
}

/** Undefined for a state of a newer broker. */
export function styleOfState(state: string): Style | undefined {
  return Object.hasOwn(OF_STATE, state) ? OF_STATE[state as BackendState] : undefined
}
