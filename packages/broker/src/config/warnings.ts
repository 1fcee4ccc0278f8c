import type { Config } from './config.ts'
import type { ConfigProblem } from './error.ts'

/** Settings that are allowed but probably unintended. */
export function warningsOf(config: Config): ConfigProblem[] {
  const used = new Set(config.listeners.map((listener) => listener.service))
  const encrypted = new Set(
    config.listeners.filter(({ protocol }) => protocol === 'tls').map(({ service }) => service),
  )
  return [...config.services.values()].flatMap((service) => {
    const path = `services.${service.name}`
    const found: ConfigProblem[] = []
    if (!used.has(service.name)) found.push({ path, message: 'no listener sends connections here' })
    if (service.holdTimeout < service.ackDeadline) {
      const message = 'is shorter than ackDeadline: a single slow backend can cause rejections'
      found.push({ path: `${path}.holdTimeout`, message })
    }
    if (service.healthCheck !== null && encrypted.has(service.name)) {
      const message =
        'uses plain HTTP, which a TLS server does not answer: backends behind a tls listener never become ready'
      found.push({ path: `${path}.healthCheck`, message })
    }
    return found
  })
}
