import { systemClock } from '@baton/backend-sdk/protocol'
import type { WorkerView } from '../src/worker/admin/view.ts'
import type { BackendStatus, Status } from '../src/api/status.ts'
import { EventFeed } from '../src/worker/events/event-feed.ts'
import type { Change } from '../src/api/events.ts'
import { FlightRecorder } from '../src/worker/recorder/flight-recorder.ts'

export const backend = (slot: string, changes: Partial<BackendStatus> = {}): BackendStatus => ({
  id: `01J0000000000000000000${slot.toUpperCase()}`,
  slot,
  state: 'ready',
  pid: 4242,
  uid: 1000,
  version: '2.0.1',
  weight: 1,
  load: 3,
  adopted: 10,
  closed: 7,
  handedBack: 0,
  givenBack: 0,
  lagMs: 1.25,
  registeredAt: '2026-01-02T03:04:05.000Z',
  ...changes,
})

export const healthy: Status = {
  broker: {
    id: '01J00000000000000000BROKER',
    version: '1.2.3',
    pid: 4000,
    master: 3999,
    startedAt: '2026-01-02T03:04:00.000Z',
    state: 'running',
  },
  listeners: [
    {
      name: 'http',
      address: '127.0.0.1:8080',
      protocol: 'http',
      service: 'web',
      accepting: true,
      accepted: 12,
    },
  ],
  services: [
    {
      name: 'web',
      balance: 'least-connections',
      handoff: 'auto',
      held: 0,
      inFlight: 1,
      stuck: 0,
      relaying: 0,
      parked: 0,
      handedBack: 0,
      givenBack: 0,
      handBacksRefused: 0,
      lateAnswers: 0,
      movedIn: 0,
      movedOut: 0,
      paused: null,
      maintenance: null,
      outcomes: { handed_off: 10, relayed: 0, rejected: 1, client_gone: 0, relinquished: 0, idle_closed: 0 },
      backends: [backend('web-1'), backend('web-2', { state: 'draining', version: null, lagMs: null })],
    },
  ],
}

/** A worker that shows `state.status`, and records drain requests and their requesters. */
export function fakeView({ recorder = 16 }: { recorder?: number } = {}) {
  const state = {
    status: healthy,
    isSucceeded: false,
    metrics: Promise.resolve('baton_build_info{version="1.2.3"} 1\n'),
  }
  const drained: unknown[][] = []
  const ordered: unknown[][] = []
  const asked: Change[] = []
  const connections = recorder === 0 ? undefined : new FlightRecorder(recorder)
  const events = new EventFeed({ status: () => state.status, counted: () => [] }, systemClock, 'fake')
  const drain = (draining: number, wanted: unknown[]) => {
    drained.push(wanted)
    const deadlineMs = wanted.at(-1)
    return Promise.resolve({ draining, deadlineMs: typeof deadlineMs === 'number' ? deadlineMs : 30_000 })
  }
  const view: WorkerView = {
    status: () => state.status,
    get isSucceeded() {
      return state.isSucceeded
    },
    drainService: (...wanted) => drain(2, wanted),
    drainBackend: (...wanted) => drain(1, wanted),
    pause: (...wanted) => void ordered.push(['pause', ...wanted]),
    resume: (...wanted) => void ordered.push(['resume', ...wanted]),
    maintain: (...wanted) => void ordered.push(['maintain', ...wanted]),
    asked: (change) => void asked.push(change),
    connections,
    events,
    history: () => ({}),
    outputFolder: '/nowhere',
    metricsText: () => state.metrics,
    metricsContentType: 'text/plain; version=0.0.4; charset=utf-8',
  }
  return { view, state, drained, ordered, asked, connections, events }
}
