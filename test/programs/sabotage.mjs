// Loaded into every process of a broker by NODE_OPTIONS=--import. In the folder SABOTAGE a file says what goes wrong:
// `check`, code that does not load; `worker`, a worker that dies before it has said a word; `slow-check` and `slow-master`, a
// check of the new program, and a master between two programs, that take as long as the file is there; `gap`, the same for a
// master that does not listen for any signal yet. Then it says so in a file of its own, `slow-master-reached`. `busy-worker` and
// `blocked-worker`: workers in an endless loop, or in a call that does not return, as long as the file is there.
// `signalled-worker` and `signalled-check`: one that is starting gets the signal that the file names, once.
// SIGWINCH: a master that throws. `patient-master`: a master that waits a hundred times as long as its limits of
// 2 s and more say, so that a test can do in the middle of such a wait what it has to.
import { existsSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'

const { SABOTAGE: folder = '/nowhere', BATON_MASTER_STATE, BATON_MASTER_STATE_VERSION } = process.env
const wanted = (name) => existsSync(join(folder, name))
const cell = new Int32Array(new SharedArrayBuffer(4))
const block = (name) => {
  if (wanted(name)) writeFileSync(join(folder, `${name}-reached`), '')
  while (wanted(name)) Atomics.wait(cell, 0, 0, 10)
}

const signalled = (name) => {
  if (!wanted(name)) return
  const signal = readFileSync(join(folder, name), 'utf8')
  rmSync(join(folder, name))
  process.kill(process.pid, signal)
}

if (BATON_MASTER_STATE_VERSION !== undefined) {
  signalled('signalled-check')
  block('slow-check')
  if (wanted('check')) throw new Error('this code does not load')
}
if (BATON_MASTER_STATE !== undefined) {
  block('gap')
  // The first thing that a master does is to listen for signals, with a listener of this name. What comes before that it cannot
  // hear. (A test runner may have put listeners of its own into this process.)
  const first = (event, { name }) => {
    if (event !== 'SIGHUP' || name !== 'keepSignal') return
    process.off('newListener', first)
    block('slow-master')
  }
  process.on('newListener', first)
}
if (process.argv[2] === 'start') {
  process.on('SIGWINCH', () => {
    throw new Error('sabotaged')
  })
  const { setTimeout } = globalThis
  globalThis.setTimeout = (then, milliseconds, ...more) => {
    const factor = milliseconds >= 2000 && wanted('patient-master') ? 100 : 1
    return setTimeout(then, milliseconds * factor, ...more)
  }
}
if (process.argv[1].endsWith('worker/main.js')) {
  signalled('signalled-worker')
  if (wanted('worker')) throw new Error('this worker does not start')
  const hang = () => {
    block('blocked-worker')
    while (wanted('busy-worker'));
  }
  setInterval(hang, 20).unref()
}
