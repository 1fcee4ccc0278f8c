// A tracer that appends each finished span to the file SPANS, as a line of JSON; then the program that makes the spans (TRACING).
import { appendFileSync } from 'node:fs'
import { trace } from '@opentelemetry/api'

const { SPANS, TRACING } = process.env

class Span {
  constructor(name, { startTime, attributes }) {
    Object.assign(this, { name, startTime, attributes: { ...attributes }, events: [], status: null })
  }
  setAttribute(key, value) {
    this.attributes[key] = value
    return this
  }
  addEvent(name, attributes) {
    this.events.push({ name, ...attributes })
    return this
  }
  setStatus(status) {
    this.status = status
    return this
  }
  end() {
    appendFileSync(SPANS, `${JSON.stringify(this)}\n`)
  }
}

trace.setGlobalTracerProvider({
  getTracer: () => ({ startSpan: (name, options) => new Span(name, options) }),
})
await import(TRACING)
