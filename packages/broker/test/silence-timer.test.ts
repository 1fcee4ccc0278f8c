import t from 'tap'
import { wasStarved } from '../src/master/workers/thread-stats.ts'
import { type Tick, SilenceTimer } from '../src/master/workers/silence-timer.ts'

const TIMEOUT = 1000
const QUIET: Tick = { elapsed: 100, answered: false, starved: false }

/** The verdicts after `count` equal ticks. */
function verdicts(silenceTimer: SilenceTimer, tick: Tick, count: number): string[] {
  return Array.from({ length: count }, () => silenceTimer.tick(tick, TIMEOUT))
}

void t.test('a worker that is silent is suspected, and then hung', (t) => {
  const silenceTimer = new SilenceTimer()
  t.equal(silenceTimer.tick({ ...QUIET, answered: true }, TIMEOUT), 'answers')
  t.same(verdicts(silenceTimer, QUIET, 10), [
    ...Array<string>(5).fill('silent'),
    ...Array<string>(4).fill('suspect'),
    'hung',
  ])
  t.equal(silenceTimer.silent, TIMEOUT)
  t.equal(silenceTimer.tick(QUIET, TIMEOUT), 'hung')
  t.end()
})

void t.test('one answer clears it', (t) => {
  const silenceTimer = new SilenceTimer()
  verdicts(silenceTimer, QUIET, 9)
  t.equal(silenceTimer.tick({ ...QUIET, answered: true }, TIMEOUT), 'answers')
  t.equal(silenceTimer.silent, 0)
  t.equal(verdicts(silenceTimer, QUIET, 9).at(-1), 'suspect')
  t.end()
})

void t.test('a worker without a processor is not blamed, up to a bound', (t) => {
  const silenceTimer = new SilenceTimer()
  const starved = { ...QUIET, starved: true }
  t.same(new Set(verdicts(silenceTimer, starved, 50)), new Set(['silent']), 'five times the timeout')
  t.equal(verdicts(silenceTimer, starved, 10).at(-1), 'hung')
  t.end()
})

void t.test('a worker is starved if it waited for a processor nearly all of the time', (t) => {
  const at = (running: number, waiting: number) => ({ state: 'R (running)', running, waiting })
  t.equal(wasStarved(at(10, 20), at(15, 115), 100), true)
  t.equal(wasStarved(at(10, 20), at(60, 70), 100), false, 'an endless loop next to another busy process')
  t.equal(wasStarved(at(10, 20), at(10, 20), 100), false, 'stopped')
  t.equal(wasStarved(undefined, at(10, 20), 100), false)
  t.equal(wasStarved(at(10, 20), undefined, 100), false, 'no /proc')
  t.end()
})
