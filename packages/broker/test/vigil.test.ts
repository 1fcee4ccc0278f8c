import t from 'tap'
import { wasStarved } from '../src/master/workers/process-sight.ts'
import { type Tick, Vigil } from '../src/master/workers/vigil.ts'

const TIMEOUT = 1000
const QUIET: Tick = { elapsed: 100, heard: false, starved: false }

/** The verdicts of `count` equal ticks. */
function verdicts(vigil: Vigil, tick: Tick, count: number): string[] {
  return Array.from({ length: count }, () => vigil.tick(tick, TIMEOUT))
}

void t.test('a worker that is silent is suspected, and then hung', (t) => {
  const vigil = new Vigil()
  t.equal(vigil.tick({ ...QUIET, heard: true }, TIMEOUT), 'answers')
  t.same(verdicts(vigil, QUIET, 10), [
    ...Array<string>(5).fill('silent'),
    ...Array<string>(4).fill('suspect'),
    'hung',
  ])
  t.equal(vigil.silent, TIMEOUT)
  t.equal(vigil.tick(QUIET, TIMEOUT), 'hung')
  t.end()
})

void t.test('one answer clears it', (t) => {
  const vigil = new Vigil()
  verdicts(vigil, QUIET, 9)
  t.equal(vigil.tick({ ...QUIET, heard: true }, TIMEOUT), 'answers')
  t.equal(vigil.silent, 0)
  t.equal(verdicts(vigil, QUIET, 9).at(-1), 'suspect')
  t.end()
})

void t.test('a worker without a processor is not blamed, up to a bound', (t) => {
  const vigil = new Vigil()
  const starved = { ...QUIET, starved: true }
  t.same(new Set(verdicts(vigil, starved, 50)), new Set(['silent']), 'five times the timeout')
  t.equal(verdicts(vigil, starved, 10).at(-1), 'hung')
  t.end()
})

void t.test('a worker is starved if it waited for a processor nearly all of the time', (t) => {
  const at = (running: number, waiting: number) => ({ state: 'R (running)', running, waiting })
  t.equal(wasStarved(at(10, 20), at(15, 115), 100), true)
  t.equal(wasStarved(at(10, 20), at(60, 70), 100), false, 'an endless loop beside another process')
  t.equal(wasStarved(at(10, 20), at(10, 20), 100), false, 'stopped')
  t.equal(wasStarved(undefined, at(10, 20), 100), false)
  t.equal(wasStarved(at(10, 20), undefined, 100), false, 'no /proc')
  t.end()
})
