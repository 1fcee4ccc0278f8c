// Loaded into every process of a broker by NODE_OPTIONS=--import. Files in the folder SABOTAGE select the faults:
// `check`: code that does not load. `worker`: a worker that dies before its first message. `slow-check`, `slow-master`, `slow-worker`: a
// check of the new program, a master between two programs, and a worker before its first line, that block while the file exists; `gap`: the
// same for a master before it listens for signals. The process then creates `slow-master-reached` (named after the fault), with its pid. `busy-worker`,
// `blocked-worker`: workers in an endless loop while the file exists, or in a call that never returns.
// `signalled-worker`, `signalled-check`: a starting process gets the signal named in the file, once.
// `dying-master`: a master that is killed right before it sends a worker a message of the type named in the file.
// SIGWINCH makes a master throw. `patient-master`: a master whose limits of 2 s and more are a hundred times as long,
// so that a test has time to act during such a wait.
import { existsSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'

const { SABOTAGE: folder = '/nowhere', BATON_MASTER_STATE, BATON_MASTER_STATE_VERSION } = process.env
const wanted = (name) => existsSync(join(folder, name))
const cell = new Int32Array(new SharedArrayBuffer(4))
const block = (name) => {
  if (wanted(name)) writeFileSync(join(folder, `${name}-reached`), String(process.pid))
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
  // A master's first action is to listen for signals, with a listener of this name. Earlier signals are not
  // delivered to it. (A test runner may have added listeners of its own to this process.)
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
  const { stringify } = JSON
  JSON.stringify = (value, ...more) => {
    const isDue = typeof value?.type === 'string' && wanted('dying-master')
    if (isDue && value.type === readFileSync(join(folder, 'dying-master'), 'utf8'))
      process.kill(process.pid, 'SIGKILL')
    return stringify(value, ...more)
  }
  const { setTimeout } = globalThis
  globalThis.setTimeout = (then, milliseconds, ...more) => {
    const factor = milliseconds >= 2000 && wanted('patient-master') ? 100 : 1
    return setTimeout(then, milliseconds * factor, ...more)
  }
}
if (process.argv[1].endsWith('bundle/worker.js')) {
  signalled('signalled-worker')
  block('slow-worker')
  if (wanted('worker')) throw new Error('this worker does not start')
  const hang = () => {
    // Not in turns, between which it would be seen running.
    if (wanted('blocked-worker')) Atomics.wait(cell, 0, 0)
    // Mostly without a look at the file: that makes garbage, and a program that waits for its collector sleeps for a moment.
    while (wanted('busy-worker')) for (let turn = 0; turn < 5_000_000; turn++) Atomics.load(cell, 0)
  }
  setInterval(hang, 20).unref()
}
