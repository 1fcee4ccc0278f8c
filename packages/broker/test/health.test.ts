import t from 'tap'
import { FAILURES, judge, UNCHECKED } from '../src/worker/health/health-checks.ts'

type Result = 'passed' | 'failed'

/** The health after each of these results. */
function course(...results: Result[]): string[] {
  let record = UNCHECKED
  return results.map((result) => {
    record = judge(record, result)
    return record.health
  })
}

void t.test('a backend is healthy from its first success on', async (t) => {
  t.equal(UNCHECKED.health, 'starting')
  t.same(course('passed'), ['healthy'])
  t.same(course('failed', 'failed', 'passed'), ['starting', 'starting', 'healthy'])
})

void t.test('three failures in a row make it unhealthy, and one success healthy again', async (t) => {
  t.equal(FAILURES, 3)
  t.same(course('failed', 'failed', 'failed', 'failed'), ['starting', 'starting', 'unhealthy', 'unhealthy'])
  t.same(course('passed', 'failed', 'failed', 'failed', 'passed', 'failed'), [
    'healthy',
    'healthy',
    'healthy',
    'unhealthy',
    'healthy',
    'healthy',
  ])
})

void t.test('a success between failures resets the count', async (t) => {
  const results: Result[] = ['passed', 'failed', 'failed', 'passed', 'failed', 'failed']
  t.same(new Set(course(...results)), new Set(['healthy']))
})

void t.test('a result affects only its own backend: the record is not changed in place', async (t) => {
  const record = judge(UNCHECKED, 'failed')
  judge(record, 'failed')
  t.same(record, { health: 'starting', failures: 1 })
  t.same(UNCHECKED, { health: 'starting', failures: 0 })
})
