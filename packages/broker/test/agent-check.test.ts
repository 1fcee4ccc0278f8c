import t from 'tap'
import { agentAnswer, type Capacity, formatAnswer } from '../src/worker/agent-check/answer.ts'

const service = (more: Partial<Capacity> = {}): Capacity => ({
  service: 'web',
  ready: 2,
  expected: 2,
  relays: false,
  heldFor: 0,
  holdTimeout: 10_000,
  ...more,
})
const line = (services: readonly Capacity[], isDraining = false) =>
  formatAnswer(agentAnswer(isDraining, services))

void t.test('the weight is the share of backends that are ready', (t) => {
  t.equal(line([service()]), 'up ready 100%\n')
  t.equal(line([service({ ready: 1 })]), 'up ready 50%\n')
  t.equal(line([service({ ready: 1, expected: 3 })]), 'up ready 33%\n')
  // During a deploy there may be more than configured, and before the first registration none is expected.
  t.equal(line([service({ ready: 3 })]), 'up ready 100%\n')
  t.equal(line([service({ ready: 1, expected: 1000 })]), 'up ready 1%\n')
  t.end()
})

void t.test('it falls with the time that clients are held, and never to 0', (t) => {
  t.equal(line([service({ heldFor: 99 })]), 'up ready 100%\n', 'a burst')
  t.equal(line([service({ heldFor: 5000 })]), 'up ready 50%\n')
  t.equal(line([service({ heldFor: 5000, ready: 1 })]), 'up ready 25%\n')
  t.equal(line([service({ heldFor: 20_000 })]), 'up ready 1%\n')
  t.equal(line([service({ heldFor: 1, holdTimeout: 0 })]), 'up ready 1%\n')
  t.end()
})

void t.test('a host is as good as the worst of its services', (t) => {
  t.equal(line([service(), service({ service: 'api', ready: 1 })]), 'up ready 50%\n')
  t.equal(
    line([service(), service({ service: 'api', ready: 0 })]),
    'down #service api has no ready backend\n',
  )
  t.equal(line([service({ ready: 0, expected: 0, relays: true })]), 'up ready 100%\n', 'upstreams')
  t.equal(line([service({ ready: 1, relays: true })]), 'up ready 100%\n', 'upstreams take the rest')
  t.equal(line([service({ ready: 0 })], true), 'drain\n')
  t.end()
})
