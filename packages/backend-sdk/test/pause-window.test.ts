import t from 'tap'
import { PauseWindow } from '../src/pause-window.ts'

// How many WebSockets may be silent at once.

/** The size after a number of moves. @param milliseconds how long each takes while the window has this size */
function after(times: number, milliseconds: (size: number) => number): number {
  const window = new PauseWindow()
  for (let left = times; left > 0; left--) window.settled(milliseconds(window.size))
  return window.size
}

void t.test('it opens while moves are quick, and stays within its limits', async (t) => {
  t.equal(
    after(1000, () => 1),
    16,
  )
  t.equal(
    after(1000, () => 500),
    2,
  )
})

// Story: with a fixed window of 16, WebSockets were silent for 51 ms (median) on a machine whose processors were busy.
void t.test('it settles where a move takes 5 ms', async (t) => {
  // Half of the size at which it takes longer is the least.
  const quiet = after(1000, (size) => size * 0.6)
  t.ok(quiet >= 4 && quiet <= 9, `${quiet} on a quiet machine`)
  const busy = after(1000, (size) => size * 2)
  t.ok(busy <= 3, `${busy} on a busy one`)
})
