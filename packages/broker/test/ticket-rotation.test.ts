import t from 'tap'
import { type Config, parseConfig } from '../src/config/config.ts'
import { TicketRotation, type TicketRotationState } from '../src/master/tickets/ticket-rotation.ts'

const HOUR = 3_600_000

/** Services by name, with their `ticketRotation`. */
function servicesOf(rotations: Record<string, string | null>): Config['services'] {
  const [service = ''] = Object.keys(rotations)
  return parseConfig({
    listeners: [{ name: 'web', listen: '127.0.0.1:0', service }],
    services: Object.fromEntries(
      Object.entries(rotations).map(([name, ticketRotation]) => [name, { ticketRotation }]),
    ),
  }).services
}

class Clock {
  now = 1000 * HOUR
  changes = 0
  services = servicesOf({ web: '12h' })

  rotation(state?: TicketRotationState): TicketRotation {
    return new TicketRotation(
      () => this.services,
      () => (this.changes += 1),
      state,
      undefined,
      () => this.now,
    )
  }
}

void t.test('keys for TLS session tickets', async (t) => {
  const clock = new Clock()
  const rotation = clock.rotation()
  t.teardown(() => rotation.stop())
  const keys = () => rotation.keys['web'] ?? []
  const [first] = keys()
  t.equal(keys().length, 1)
  t.equal(Buffer.from(first ?? '', 'base64').length, 48)

  clock.now += 12 * HOUR - 1
  rotation.update()
  t.same(keys(), [first], 'not yet due')
  t.equal(clock.changes, 0)

  clock.now += 1
  rotation.update()
  const [second, ...others] = keys()
  t.same(others, [first], 'the previous one stays valid')
  t.not(second, first)
  t.equal(clock.changes, 1)

  clock.now += 12 * HOUR
  rotation.update()
  const [third] = keys()
  t.same(keys(), [third, second], 'two are valid')

  await t.test('the next program goes on with them', async (t) => {
    const next = clock.rotation(JSON.parse(JSON.stringify(rotation.state)) as TicketRotationState)
    next.stop()
    t.same(next.keys, rotation.keys)
    next.update()
    next.stop()
    t.same(next.keys, rotation.keys, 'and with their time')
  })

  await t.test('after days without a master, no old key is valid', async (t) => {
    const { state } = rotation
    clock.now += 48 * HOUR
    const later = clock.rotation(state)
    later.update()
    later.stop()
    t.equal(later.keys['web']?.length, 1)
    t.notOk([first, second, third].includes(later.keys['web']?.[0]))
  })

  await t.test('a reload adds services, and forgets keys', async (t) => {
    clock.services = servicesOf({ web: null, constructor: '1h' })
    rotation.update()
    t.same(Object.keys(rotation.keys), ['constructor'])
  })
})
