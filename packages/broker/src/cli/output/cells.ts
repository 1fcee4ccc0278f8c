import type { BackendStatus, ServiceStatus } from '../../api/status.ts'
import { styleOfState } from './colours.ts'
import type { Styled } from './table.ts'

/** How many of the registered backends can take a connection now, or why none gets one. */
export function readyCell({
  backends,
  upstreams = [],
  paused = null,
  maintenance = null,
}: ServiceStatus): Styled {
  const ready = backends.filter(({ state }) => state === 'ready').length
  const ordered = maintenance !== null ? 'maintenance' : paused !== null ? 'paused' : undefined
  if (ordered !== undefined) return { text: `${ready}/${backends.length} ${ordered}`, style: 'yellow' }
  const isLacking = ready === 0 && upstreams.length === 0
  return { text: `${ready}/${backends.length}`, style: isLacking ? 'red' : undefined }
}

export function stateCell({ state }: BackendStatus): Styled {
  return { text: state, style: styleOfState(state) }
}

/** A measured number, or a dash if there is none. */
export function measureCell(value: number | null, digits: number): Styled {
  return { text: value === null ? '-' : value.toFixed(digits), right: true }
}
