// Turns the connections of a backend into spans: node --import ./backend.mjs app.js
import { subscribe } from 'node:diagnostics_channel'
import { SpanKind, trace } from '@opentelemetry/api'

const tracer = trace.getTracer('baton')
const spans = new Map()

subscribe('baton:connection:adopted', ({ connection }) => {
  const { id, service, listener, via, acceptedAt } = connection
  const attributes = {
    'baton.connection.id': id,
    'baton.service': service,
    'baton.listener': listener,
    'baton.via': via,
  }
  // From the accept in the broker on. One that comes back has a span of its own.
  const span = tracer.startSpan('connection', { kind: SpanKind.SERVER, startTime: acceptedAt, attributes })
  spans.set(id, span.addEvent('adopted'))
})

subscribe('baton:connection:closed', ({ connection }) => {
  const span = spans.get(connection.id)
  spans.delete(connection.id)
  span?.setAttribute('baton.moved_on', connection.movedOn).end()
})

subscribe('baton:connection:refused', ({ service, reason }) => {
  const attributes = { 'baton.service': service, 'baton.reason': reason }
  tracer.startSpan('connection refused', { attributes }).end()
})
