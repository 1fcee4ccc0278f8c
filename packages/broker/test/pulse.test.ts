import t from 'tap'
import { Pulse } from '../src/master/systemd/notify.ts'

void t.test('the broker is alive while the worker reports', async (t) => {
  const pulse = new Pulse(0)
  t.ok(pulse.due(3000), 'no report was possible yet')
  t.notOk(pulse.beat(3500), 'nothing is owed')
  t.ok(pulse.due(6500))
  t.notOk(pulse.due(6501))
  t.notOk(pulse.due(60_000))
})

void t.test('a late worker is reported at once, because the next time would be too late', async (t) => {
  const pulse = new Pulse(0)
  t.notOk(pulse.due(15_000))
  t.ok(pulse.beat(15_500))
  t.notOk(pulse.beat(16_500), 'once')
  t.ok(pulse.due(19_000))
})
