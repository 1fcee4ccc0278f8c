import type { BackendState } from '../../metrics/labels.ts'
import type { Terminal } from './terminal.ts'

/**
 * SGR parameters, on and off (ECMA-48, 8.3.117): the eight colours that every terminal has, so that its own theme says how they
 * look.
 */
const STYLES = {
  bold: [1, 22],
  dim: [2, 22],
  red: [31, 39],
  green: [32, 39],
  yellow: [33, 39],
  cyan: [36, 39],
} as const

export type Style = keyof typeof STYLES

/** Puts a style on a text, or does not. */
export type Paint = (style: Style, text: string) => string

export const plain: Paint = (_style, text) => text

export const coloured: Paint = (style, text) => {
  const [on, off] = STYLES[style]
  return `\u001B[${on}m${text}\u001B[${off}m`
}

/** https://no-color.org: any value that is not empty, whatever it says. */
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

/** Undefined for a state that a newer broker has. */
export function styleOfState(state: string): Style | undefined {
  return Object.hasOwn(OF_STATE, state) ? OF_STATE[state as BackendState] : undefined
}
