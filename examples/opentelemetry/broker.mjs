// Turns the steps of connections in the broker into spans: NODE_OPTIONS=--import=/path/to/broker.mjs baton start
import { subscribe } from 'node:diagnostics_channel'
import { SpanStatusCode, trace } from '@opentelemetry/api'

const tracer = trace.getTracer('baton')
const spans = new Map()
const LAST = new Set([
  'released',
  'parked',
  'idle_closed',
  'closed',
  'rejected',
  'client_gone',
  'relinquished',
  'moved',
])

subscribe('baton:broker:connection', ({ id, step, at, service, backend, reason }) => {
  let span = spans.get(id)
  if (span === undefined) {
    const attributes = { 'baton.connection.id': id, 'baton.service': service }
    span = tracer.startSpan('handoff', { startTime: at, attributes })
    spans.set(id, span)
  }
  const attributes = { 'baton.backend': backend, 'baton.reason': reason }
  span.addEvent(step, attributes, at)
  if (!LAST.has(step)) return
  if (step === 'rejected') span.setStatus({ code: SpanStatusCode.ERROR, message: reason })
  span.end(at)
  spans.delete(id)
})
