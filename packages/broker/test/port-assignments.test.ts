import t from 'tap'
import { planListener } from '../src/master/run/port-assignments.ts'

const request = { service: 'app', host: '127.0.0.1', port: 8080, protocol: 'http' } as const

// The configuration may be edited by hand. A comment in it ended the master when an app listened next.
void t.test('a port is planned in a configuration with comments and trailing commas', async (t) => {
  const text = '{\n  // mine\n  "listeners": [],\n  "services": { "app": {}, },\n}\n'
  const plan = planListener(text, {}, request)
  t.match(plan, { kind: 'new', listener: 'port-8080', listen: { host: '127.0.0.1', port: 8080 } })
  t.match(JSON.parse(plan.kind === 'new' ? plan.text : ''), {
    listeners: [{ name: 'port-8080', listen: '127.0.0.1:8080', service: 'app' }],
    services: { app: {} },
  })
})
