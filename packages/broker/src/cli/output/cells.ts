import type { BackendStatus, ServiceStatus } from '../../api/status.ts'
import { styleOfState } from './colours.ts'
import type { Styled } from './table.ts'

/** How many of the registered backends can take a connection now. */
export function readyCell({ backends }: ServiceStatus): Styled {
  const ready = backends.filter(({ state }) => state === 'ready').length
  return { text: `${ready}/${backends.length}`, style: ready === 0 ? 'red' : undefined }
}

export function stateCell({ state }: BackendStatus): Styled {
  return { text: state, style: styleOfState(state) }
}

/** A measured number, or a dash if there is none. */
export function measureCell(value: number | null, digits: number): Styled {
  return { text: value === null ? '-' : value.toFixed(digits), right: true }
}
